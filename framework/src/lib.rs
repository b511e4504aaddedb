//! A framework for user-space device drivers: a broker owns the device, clients hold revocable least-authority grants, no system call on the data path.
