//! The client's memory by messages.

use super::dma::RECORD;
use super::*;
use crate::soft::testing::DOORBELL;
use crate::vfio_user::message::{DmaData, DmaWritten, IrqAction, IrqData, SetIrqs, error_message};

/// Memory that the client keeps to itself.
struct Memory(Vec<u8>);

impl Memory {
    /// Answers a command of the server's.
    fn serve(&mut self, frame: &Frame) -> Vec<u8> {
        let request = Request::decode(frame.command().unwrap(), &frame.payload).unwrap();
        let id = frame.header.id;
        match request {
            Request::DmaRead(read) => {
                let from = read.address as usize;
                let data = &self.0[from..from + read.count as usize];
                Reply::DmaRead(DmaData { address: read.address, data }).message(id)
            }
            Request::DmaWrite(write) => {
                let at = write.address as usize;
                self.0[at..at + write.data.len()].copy_from_slice(write.data);
                let count = write.data.len() as u64;
                Reply::DmaWrite(DmaWritten { address: write.address, count }).message(id)
            }
            other => panic!("{other:?}"),
        }
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }
}

fn start(client: &mut Client, len: u64) {
    client.enable();
    client.map(0, 1 << 20, None).unwrap();
    for (register, value) in [(0, 0x1000), (8, 0x8000), (16, len), (RECORD, 0x100)] {
        client.write64(register, value);
    }
}

fn memory() -> Memory {
    let mut memory = Memory(vec![0; 1 << 20]);
    (0..0x5000).for_each(|i| memory.0[0x1000 + i] = (i % 251) as u8 + 1);
    memory
}

#[test]
fn memory_without_a_descriptor_is_read_and_written_by_messages() {
    let served = Served::new();
    let (mut client, mut memory) = (served.client(), memory());
    start(&mut client, 0x5000);
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let action = IrqAction::Trigger;
    let irq = SetIrqs { index: 2, start: 1, count: 1, action, data: IrqData::Eventfd };
    client.ask(&Request::DeviceSetIrqs(irq), vec![event.try_clone().unwrap()]).unwrap();
    client.write(0, DOORBELL, &1_u32.to_le_bytes()).unwrap();
    let mut answers = Vec::new();
    while memory.word(0x10c) != 1 {
        let frame = client.receive().unwrap();
        let answer = memory.serve(&frame);
        if frame.command().unwrap() == Command::DmaRead {
            client.send(answer, vec![]);
        } else {
            answers.push(answer);
        }
    }
    assert_eq!(memory.0[0x8000..0xd000], memory.0[0x1000..0x6000].to_vec());
    assert!(answers.len() > 1, "the record's last word comes by itself");
    assert!(!crate::soft::testing::readable(&event, Duration::ZERO), "data first");
    answers.into_iter().for_each(|answer| client.send(answer, vec![]));
    wait(&event, PollFlags::IN);
}

#[test]
fn commands_are_answered_while_the_device_waits_for_memory() {
    let served = Served::new();
    let (mut client, mut memory) = (served.client(), memory());
    start(&mut client, 64);
    client.write(0, DOORBELL, &7_u32.to_le_bytes()).unwrap();
    let read = client.receive().unwrap();
    assert_eq!(read.command().unwrap(), Command::DmaRead);
    // The client answers nothing before it has its own answers.
    client.write(0, 0x2000, &[1; 4]).unwrap();
    client.write(pci::CONFIG, 0x3c, &[5]).unwrap();
    assert_eq!(client.read(pci::CONFIG, 0x3c, 1).unwrap(), [5]);
    let answer = memory.serve(&read);
    client.send(answer, vec![]);
    while memory.word(0x10c) != 7 {
        let frame = client.receive().unwrap();
        let answer = memory.serve(&frame);
        client.send(answer, vec![]);
    }
}

#[test]
fn a_client_that_refuses_or_lies_gets_a_fault_and_nothing_else() {
    let served = Served::new();
    let (mut client, mut memory) = (served.client(), memory());
    start(&mut client, 64);
    client.write(0, DOORBELL, &1_u32.to_le_bytes()).unwrap();
    let read = client.receive().unwrap();
    client.send(error_message(read.header.id, read.header.number, 5), vec![]);
    while memory.word(0x10c) != 1 {
        let frame = client.receive().unwrap();
        let answer = memory.serve(&frame);
        client.send(answer, vec![]);
    }
    assert_eq!(memory.word(0x108), 1, "the copy faulted");
    client.write(0, DOORBELL, &2_u32.to_le_bytes()).unwrap();
    let read = client.receive().unwrap();
    let short = Reply::DmaRead(DmaData { address: 0x1000, data: &[0; 63] });
    client.send(short.message(read.header.id), vec![]);
    while !client.is_dismissed() {}
    served.end();
}

#[test]
fn the_twin_socket_carries_the_servers_commands() {
    let served = Served::new();
    let (mut client, mut memory) = (served.connect(), memory());
    let frame = client.greet(br#"{"capabilities":{"twin_socket":{"supported":true}}}"#);
    let mut twin = Client::new(UnixStream::from(frame.fds.into_iter().next().unwrap()));
    start(&mut client, 0x5000);
    client.write(0, DOORBELL, &3_u32.to_le_bytes()).unwrap();
    while memory.word(0x10c) != 3 {
        let frame = twin.receive().unwrap();
        let answer = memory.serve(&frame);
        twin.send(answer, vec![]);
    }
    assert_eq!(memory.0[0x8000..0xd000], memory.0[0x1000..0x6000].to_vec());
    drop(twin);
    assert!(client.is_dismissed(), "without its twin the connection is of no use");
    served.end();
}
