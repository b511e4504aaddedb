//! Doorbell queues over device-shared memory: rings, slots, doorbells and futures that own their buffers. no_std + alloc.
#![no_std]
