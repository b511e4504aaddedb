//! Tests of a queue against a device in memory.

mod basics;
mod economy;
mod futures;
mod garbage;
mod model;
mod reentrancy;
mod slot_free;
mod violations;
