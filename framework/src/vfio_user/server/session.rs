//! One client, from its connection to its end.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver as Queue, bounded};
use rustix::io::Errno;

use super::endpoint::Endpoint;
use super::link::Link;
use super::listen::Listener;
use super::maps::{CLIENT, MOST_MAPS, Maps, NewMap, Shrunk};
use super::peer::PeerMemory;
use super::twin::Twin;
use super::{ANSWER, irqs, reader, region};
use crate::bus::BusError;
use crate::deadline::Deadline;
use crate::vfio_user::message::{
    DeviceInfo, DmaMap, DmaUnmap, IrqInfo, RegionAccess, RegionData, RegionInfo, Version,
    error_message,
};
use crate::vfio_user::{
    Capabilities, Command, Frame, Kind, MAJOR, MINOR, Reply, Request, TwinSocket, pci,
};

/// Descriptors of one message (`max_msg_fds`); clients in the field take no more than 16 here.
pub(super) const MOST_FDS: usize = 16;
/// Commands that wait for the server's thread.
const QUEUE: usize = 1024;

/// Why a session is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client has closed the connection.
    Closed,
    /// The server was told to stop.
    Stopped,
    /// It broke the protocol, or its connection broke.
    Broken(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("it has closed the connection"),
            Self::Stopped => f.write_str("the server ends"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// What a command comes to: an answer, and descriptors with it.
type Answer = Result<(Vec<u8>, Vec<OwnedFd>), Errno>;

/// A client that is being served.
pub(super) struct Session<'a> {
    endpoint: &'a mut Endpoint,
    link: Arc<Link>,
    peer: Arc<PeerMemory>,
    maps: Maps,
    twin: Option<Twin>,
    /// VERSION was agreed on.
    greeted: bool,
}

impl<'a> Session<'a> {
    /// Serves a client until it or the server ends.
    pub(super) fn serve(
        endpoint: &'a mut Endpoint,
        socket: OwnedFd,
        listener: &Listener,
        stop: &OwnedFd,
    ) -> Ended {
        let link = Arc::new(Link::new(socket));
        let control = endpoint.control().clone();
        let peer = PeerMemory::new(Arc::clone(&link), control, region::MOST_DATA as usize);
        let peer = Arc::new(peer);
        let shrunk = match Shrunk::new() {
            Ok(shrunk) => Arc::new(shrunk),
            Err(error) => return Ended::Broken(format!("no descriptor for it: {error}")),
        };
        let mut session = Session {
            endpoint,
            link: Arc::clone(&link),
            peer: Arc::clone(&peer),
            maps: Maps::new(Arc::clone(&shrunk)),
            twin: None,
            greeted: false,
        };
        let (commands, queue) = bounded(QUEUE);
        std::thread::scope(|scope| {
            let reader = std::thread::Builder::new().name("vfio-user-read".into());
            let (reading, memory) = (Arc::clone(&link), Arc::clone(&peer));
            let shrunk = &*shrunk;
            let reader = reader.spawn_scoped(scope, move || {
                let ended = reader::read(
                    &reading,
                    &memory,
                    &commands,
                    [&listener.fd, stop, &shrunk.event],
                    listener,
                );
                memory.close();
                ended
            });
            let reader = match reader {
                Ok(reader) => reader,
                Err(error) => return Ended::Broken(format!("no thread for it: {error}")),
            };
            let broken = session.work(&queue);
            // The reader ends when the connection does.
            link.close();
            drop(queue);
            let ended = reader.join();
            match (broken, ended) {
                (Some(why), _) => Ended::Broken(why),
                (None, Ok(ended)) => ended,
                (None, Err(_)) => Ended::Broken("its reader failed".to_owned()),
            }
        })
    }

    /// Executes commands in order. `Some` if one of them must end the session.
    fn work(&mut self, queue: &Queue<Frame>) -> Option<String> {
        while let Ok(frame) = queue.recv() {
            let (id, number) = (frame.header.id, frame.header.number);
            let no_reply = frame.header.kind == Kind::Command { no_reply: true };
            let first = !self.greeted;
            let answer = self.execute(frame);
            if let Err(errno) = &answer {
                tracing::debug!(id, number, %errno, "a command was refused");
            }
            let refused = answer.is_err();
            if !no_reply {
                let (bytes, fds) = answer.unwrap_or_else(|errno| {
                    let errno = errno.raw_os_error().unsigned_abs();
                    (error_message(id, number, errno), Vec::new())
                });
                if !self.link.send(bytes, fds) {
                    return Some("it does not read, or is gone".to_owned());
                }
            }
            if first && refused {
                return Some("no version could be agreed on".to_owned());
            }
            if !self.endpoint.control().alive() {
                self.endpoint.report_error();
                return Some("the device's model has failed".to_owned());
            }
        }
        None
    }

    fn execute(&mut self, frame: Frame) -> Answer {
        let Frame { header, payload, fds } = frame;
        let command = header.command().map_err(|_| Errno::NOSYS)?;
        if self.greeted == (command == Command::Version) {
            return Err(Errno::INVAL);
        }
        let request = Request::decode(command, &payload).map_err(|error| {
            tracing::debug!(%error, "a command that cannot be read");
            Errno::INVAL
        })?;
        let takes_fds = matches!(request, Request::DmaMap(_) | Request::DeviceSetIrqs(_));
        if !fds.is_empty() && !takes_fds {
            return Err(Errno::INVAL);
        }
        let reply = match &request {
            Request::Version(version) => return self.version(header.id, version),
            Request::DeviceGetRegionInfo(asked) => return self.region_info(header.id, asked),
            Request::DmaMap(map) => self.map(map, &fds)?,
            Request::DmaUnmap(unmap) => self.unmap(unmap)?,
            Request::DeviceGetInfo(asked) => device_info(asked)?,
            Request::DeviceGetIrqInfo(asked) => self.irq_info(asked)?,
            Request::DeviceSetIrqs(asked) => {
                let _urgent = self.peer.urgent();
                irqs::set(self.endpoint, asked, fds)?;
                Reply::DeviceSetIrqs
            }
            Request::RegionRead(RegionAccess { offset, region, count }) => {
                let urgent = self.peer.urgent();
                let data = region::read(self.endpoint, *region, *offset, *count)?;
                drop(urgent);
                let (offset, region, data) = (*offset, *region, data.as_slice());
                let reply = Reply::RegionRead(RegionData { offset, region, data });
                return Ok((reply.message(header.id), Vec::new()));
            }
            Request::RegionWrite(RegionData { offset, region, data }) => {
                self.write(*region, *offset, data)?;
                let count = data.len() as u32;
                Reply::RegionWrite(RegionAccess { offset: *offset, region: *region, count })
            }
            Request::RegionWriteMulti(writes) => {
                for write in &writes.writes {
                    self.write(write.region, write.offset, write.data())?;
                }
                Reply::RegionWriteMulti(writes.writes.len() as u64)
            }
            Request::DeviceReset => {
                tracing::debug!("the client resets the device");
                let _urgent = self.peer.urgent();
                self.endpoint.reset().map_err(|error| failed(&error))?;
                Reply::DeviceReset
            }
            Request::DeviceGetRegionIoFds(_)
            | Request::DeviceFeature(_)
            | Request::MigDataRead(_)
            | Request::MigDataWrite(_) => return Err(Errno::OPNOTSUPP),
            Request::DmaRead(_) | Request::DmaWrite(_) => return Err(Errno::INVAL),
        };
        Ok((reply.message(header.id), Vec::new()))
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        // Only a write that resets the function waits for the device's thread.
        let peer = Arc::clone(&self.peer);
        let _urgent = (region == pci::CONFIG).then(|| peer.urgent());
        region::write(self.endpoint, region, offset, data)
    }

    /// VERSION: a minor version of at most ours, and of the capabilities proposed those that we have.
    fn version(&mut self, id: u16, version: &Version<'_>) -> Answer {
        if version.major != MAJOR {
            return Err(Errno::INVAL);
        }
        let proposed = version.capabilities().map_err(|error| {
            tracing::debug!(%error, "a version that cannot be read");
            Errno::INVAL
        })?;
        let mut fds = Vec::new();
        let twin_socket = if proposed.twin_socket() { self.open_twin(&mut fds) } else { None };
        let transfer = proposed.max_data_xfer_size().clamp(1, region::MOST_DATA.into());
        let chosen = Capabilities {
            max_msg_fds: proposed.max_msg_fds.map(|_| MOST_FDS as u64),
            max_data_xfer_size: proposed.max_data_xfer_size.map(|_| region::MOST_DATA.into()),
            max_dma_maps: proposed.max_dma_maps.map(|_| MOST_MAPS as u64),
            pgsizes: proposed.pgsizes.map(|_| 4096),
            twin_socket,
            write_multiple: proposed.write_multiple.filter(|wanted| *wanted),
        };
        self.peer.set_transfer(transfer as usize);
        self.start_dma()?;
        self.greeted = true;
        let data = chosen.to_json().map_err(|_| Errno::INVAL)?;
        let minor = version.minor.min(MINOR);
        let reply = Version { major: MAJOR, minor, data: data.as_bytes() };
        Ok((Reply::Version(reply).message(id), fds))
    }

    /// A socket of its own for DMA_READ and DMA_WRITE. Without one they go by the first.
    fn open_twin(&mut self, fds: &mut Vec<OwnedFd>) -> Option<TwinSocket> {
        match Twin::new(&self.peer, &self.link) {
            Ok((twin, theirs)) => {
                self.twin = Some(twin);
                fds.push(theirs);
                Some(TwinSocket { supported: true, fd_index: Some(0) })
            }
            Err(error) => {
                tracing::warn!(%error, "no twin socket for the client");
                None
            }
        }
    }

    /// The device may reach the client's memory by messages.
    fn start_dma(&self) -> Result<(), Errno> {
        let peer = Arc::clone(&self.peer);
        let control = self.endpoint.control();
        let started = control.call("meeting a client", Deadline::after(ANSWER), move |_, cx| {
            cx.set_peer(peer);
            cx.pin.allowed = true;
        });
        started.map_err(|error| failed(&error))
    }

    fn region_info(&self, id: u16, asked: &RegionInfo) -> Answer {
        if asked.argsz < RegionInfo::ARGSZ {
            return Err(Errno::INVAL);
        }
        let (reply, fd) = region::info(self.endpoint, asked.index)?;
        // Never longer than the client takes: it learns from `argsz` what to ask for.
        let cut = reply.info.argsz > asked.argsz;
        let reply = if cut { reply.cut() } else { reply };
        Ok((Reply::DeviceGetRegionInfo(reply).message(id), fd.into_iter().collect()))
    }

    fn irq_info(&self, asked: &IrqInfo) -> Result<Reply<'static>, Errno> {
        if asked.argsz < IrqInfo::ARGSZ {
            return Err(Errno::INVAL);
        }
        irqs::info(self.endpoint, asked.index).map(Reply::DeviceGetIrqInfo).ok_or(Errno::INVAL)
    }

    fn map(&mut self, map: &DmaMap, fds: &[OwnedFd]) -> Result<Reply<'static>, Errno> {
        let new = self.maps.prepare(map, fds)?;
        let told = self.tell(map, &new);
        match told {
            Ok(()) => self.maps.insert(map, &new),
            Err(_) => self.maps.abandon(&new),
        }
        told.map(|()| Reply::DmaMap)
    }

    /// Maps it for the device. It does not wait: commands that ring a doorbell come later.
    fn tell(&self, map: &DmaMap, new: &NewMap) -> Result<(), Errno> {
        let (address, size, access) = (map.address, map.size, new.access);
        let memory = new.memory.clone();
        let control = self.endpoint.control();
        let _urgent = self.peer.urgent();
        let mapped = control.call("a DMA map", Deadline::after(ANSWER), move |_, cx| {
            let iommu = cx.iommu_mut();
            match memory {
                Some(memory) => iommu.map(CLIENT, address, memory, access),
                None => iommu.map_remote(CLIENT, address, size, access),
            }
        });
        match mapped {
            Ok(Ok(())) => Ok(()),
            // Checked against our own list before, so this does not happen.
            Ok(Err(_)) => Err(Errno::EXIST),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Unmaps. When it is answered no access of the device reaches the memory any more.
    fn unmap(&mut self, unmap: &DmaUnmap) -> Result<Reply<'static>, Errno> {
        let maps = self.maps.find(unmap)?;
        let these = maps.clone();
        let control = self.endpoint.control();
        let urgent = self.peer.urgent();
        let unmapped = control.call("a DMA unmap", Deadline::after(ANSWER), move |_, cx| {
            let iommu = cx.iommu_mut();
            these.into_iter().try_for_each(|(address, size)| iommu.unmap(CLIENT, address, size))
        });
        drop(urgent);
        match unmapped {
            Ok(Ok(())) => self.maps.remove(&maps),
            Ok(Err(_)) => return Err(Errno::NOENT),
            Err(error) => return Err(failed(&error)),
        }
        Ok(Reply::DmaUnmap(DmaUnmap { argsz: DmaUnmap::ARGSZ, ..*unmap }))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        tracing::debug!(maps = self.maps.len(), "a client's memory is unmapped");
    }
}

fn device_info(asked: &DeviceInfo) -> Result<Reply<'static>, Errno> {
    if asked.argsz < DeviceInfo::ARGSZ {
        return Err(Errno::INVAL);
    }
    Ok(Reply::DeviceGetInfo(DeviceInfo {
        argsz: DeviceInfo::ARGSZ,
        flags: DeviceInfo::RESET | DeviceInfo::PCI,
        regions: pci::REGIONS,
        irqs: pci::IRQS,
    }))
}

fn failed(error: &BusError) -> Errno {
    tracing::warn!(%error, "a command failed");
    Errno::IO
}
