//! What the server asks of us: DMA_READ and DMA_WRITE.

use rustix::io::Errno;

use super::io::MAX_DATA;
use super::link::Shared;
use crate::vfio_user::message::{DmaData, DmaWritten, error_message};
use crate::vfio_user::{Command, Frame, Reply, Request};

/// Does it, and gives the reply.
pub(super) fn serve(shared: &Shared, frame: &Frame) -> Vec<u8> {
    let (id, number) = (frame.header.id, frame.header.number);
    match serve_dma(shared, frame) {
        Ok(reply) => reply,
        Err(errno) => {
            tracing::debug!(device = %shared.name, number, %errno, "refused to the device server");
            error_message(id, number, errno.raw_os_error().unsigned_abs())
        }
    }
}

fn serve_dma(shared: &Shared, frame: &Frame) -> Result<Vec<u8>, Errno> {
    let id = frame.header.id;
    let command = frame.command().ok().filter(|command| command.is_servers());
    let command: Command = command.ok_or(Errno::OPNOTSUPP)?;
    if !frame.fds.is_empty() {
        return Err(Errno::INVAL);
    }
    match Request::decode(command, &frame.payload).map_err(|_| Errno::INVAL)? {
        Request::DmaRead(read) => {
            let count = usize::try_from(read.count).ok().filter(|count| *count <= MAX_DATA);
            let mut data = vec![0; count.ok_or(Errno::INVAL)?];
            let done = shared.maps().read(read.address, &mut data);
            done.map_err(|fault| refused(shared, fault))?;
            Ok(Reply::DmaRead(DmaData { address: read.address, data: &data }).message(id))
        }
        Request::DmaWrite(DmaData { address, data }) => {
            let done = shared.maps().write(address, data);
            done.map_err(|fault| refused(shared, fault))?;
            let count = data.len() as u64;
            Ok(Reply::DmaWrite(DmaWritten { address, count }).message(id))
        }
        _ => Err(Errno::OPNOTSUPP),
    }
}

fn refused(shared: &Shared, fault: crate::dma::Fault) -> Errno {
    shared.fault(fault);
    Errno::FAULT
}
