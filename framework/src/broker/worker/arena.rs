//! Arenas: memory that clients donate.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use super::records::{Arena, Session};
use super::unit::Unit;
use crate::bus::PartitionQuiesced;
use crate::dma::{Access, DmaError, DmaSpace, IovaAllocator, Memfd};
use crate::spec::DeviceSpec;
use crate::wire::{Limit, Refusal, Reply};

/// Room per arena for its alignment in the partition.
const ALIGN: u64 = 2 << 20;

/// The most IOVA space of one partition: leaves room for 64 clients below 2^38.
const MOST: u64 = 4 << 30;

/// No client gets more than this part of the IOVA space that is left.
const CLIENTS: u64 = 16;

fn dma(error: &DmaError) -> Refusal {
    match error {
        DmaError::BadArena { .. } => Refusal::BadArena(error.to_string()),
        other => Refusal::Driver(other.to_string()),
    }
}

impl Unit {
    pub(super) fn donate(
        &self,
        session: u64,
        len: u64,
        fds: Vec<OwnedFd>,
    ) -> Result<Reply, Refusal> {
        let Some(fd) = fds.into_iter().next() else {
            return Err(Refusal::Protocol("an arena without its descriptor".to_owned()));
        };
        let memfd = self.sealed_memfd(fd)?;
        if len != memfd.len() {
            let why = format!("it has {} bytes and {len} were announced", memfd.len());
            return Err(dma(&DmaError::BadArena { why }));
        }
        let records = &mut *self.records.borrow_mut();
        records.granting(session, &self.name)?;
        self.check_quota(records, session, Limit::Mappings, 1)?;
        self.check_quota(records, session, Limit::Bytes, len)?;
        let Some(holder) = records.sessions.get_mut(&session) else {
            return Err(Refusal::Protocol("no such session".to_owned()));
        };
        if memfd.is_huge()
            && !holder.rights.operator
            && matches!(self.common.spec, DeviceSpec::Soft { .. })
        {
            // See `dma::memfd`: a punched huge page would be a SIGBUS in the device's thread.
            let why = "a software device takes huge pages from operators only; use base pages";
            return Err(Refusal::BadArena(why.to_owned()));
        }
        let space = self.bus.dma();
        let (id, iova) =
            holder.map(&mut records.iova, &*space, memfd, len).map_err(|error| dma(&error))?;
        tracing::debug!(device = %self.name, session, arena = id, iova, len, "arena mapped");
        Ok(Reply::ArenaMapped { arena: id, iova })
    }

    /// Checks a descriptor from a client, whatever it is.
    pub(super) fn sealed_memfd(&self, fd: OwnedFd) -> Result<Memfd, Refusal> {
        // First of all, and it never blocks: only memfds have seals. Looking at another kind of file,
        // and even closing it, may block for as long as its maker likes.
        if rustix::fs::fcntl_get_seals(&fd).is_err() {
            self.common.closer.close(vec![fd]);
            let why = "it has no seals: it is a pipe, a socket, a device or a file";
            return Err(dma(&DmaError::BadArena { why: why.to_owned() }));
        }
        Memfd::check(fd).map_err(|error| dma(&error))
    }

    /// A queue's commands can name any address of the partition, so an arena can be unmapped only
    /// while the client has no queue.
    pub(super) fn release_arena(&self, session: u64, arena: u32) -> Result<Reply, Refusal> {
        let records = &mut *self.records.borrow_mut();
        let refuse = |why: &str| Refusal::Arena { arena, why: why.to_owned() };
        let unknown = || refuse("this client has no such arena");
        let holder = records.sessions.get_mut(&session).filter(|session| !session.closing);
        let holder = holder.ok_or_else(unknown)?;
        if holder.creating > 0 {
            return Err(refuse("a queue is being made; release queues before arenas"));
        }
        let (Some(partition), true) = (&mut holder.partition, holder.arenas.contains_key(&arena))
        else {
            return Err(unknown());
        };
        let held: BTreeSet<u16> = holder.queues.keys().copied().collect();
        let Ok(proof) = PartitionQuiesced::of(partition.id(), &held, Vec::new()) else {
            return Err(refuse("the client still has queues; release them before arenas"));
        };
        let Some(found) = holder.arenas.remove(&arena) else { return Err(unknown()) };
        match self.bus.dma().unmap(found.mapping, &proof) {
            Ok(unmapped) => {
                partition.release(unmapped).map_err(|error| dma(&error))?;
                Ok(Reply::Done)
            }
            Err((mapping, error)) => {
                records.quarantine.bytes += mapping.len;
                records.quarantine.kept.push((mapping, found.memfd));
                Err(dma(&error))
            }
        }
    }
}

impl Session {
    fn map(
        &mut self,
        iova: &mut IovaAllocator,
        space: &dyn DmaSpace,
        memfd: Memfd,
        len: u64,
    ) -> Result<(u32, u64), DmaError> {
        let partition = match &mut self.partition {
            Some(partition) => partition,
            none => {
                let room = u64::from(self.rights.mappings).saturating_mul(ALIGN);
                // A device that reaches little memory leaves room for others as well.
                let fair = (iova.available() / CLIENTS).clamp(len, MOST.max(len));
                let most = self.rights.bytes.saturating_add(room).min(fair);
                none.insert(iova.partition(most)?)
            }
        };
        let at = partition.alloc(len)?;
        let mapping = match space.map(partition.id(), at, &memfd, 0, len, Access::ReadWrite) {
            Ok(mapping) => mapping,
            Err(error) => {
                partition.release_unused(at, len)?;
                return Err(error);
            }
        };
        let id = self.next_arena;
        self.next_arena += 1;
        self.arenas.insert(id, Arena { mapping, memfd });
        Ok((id, at))
    }
}
