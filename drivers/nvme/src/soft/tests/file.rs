//! Namespaces in files.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::soft::jobs;
use crate::spec::command::{Dsm11, Rw12};
use crate::spec::feature::Features10;
use crate::spec::{Cns, DsmRange, FeatureId, IdentifyController, NSID_ALL};

const READ: IoOpcode = IoOpcode::READ;
const WRITE: IoOpcode = IoOpcode::WRITE;
const IMAGE: usize = 1 << 20;

struct Image {
    _folder: TempDir,
    path: PathBuf,
    data: Vec<u8>,
}

fn image() -> Image {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let data = pattern(11, IMAGE);
    std::fs::write(&path, &data).unwrap();
    Image { _folder: folder, path, data }
}

fn bench(path: &Path) -> (Bench, Pair) {
    let mut bench = Bench::new(SoftNvme::builder().image(path).depth(1024));
    let pair = bench.create_pair(1, 512);
    (bench, pair)
}

impl Bench {
    /// A transfer in consecutive pages.
    fn flat(&mut self, opcode: IoOpcode, lba: u64, blocks: u32, at: u64) -> Sqe {
        let pages: Vec<u64> = (1..32).map(|page| at + page * 4096).collect();
        let list = self.alloc(4096);
        self.put(list, bytemuck::cast_slice(&pages));
        let prp2 = if blocks > 16 { list } else { at + 4096 };
        Sqe { prp2, ..rw(opcode, lba, blocks, at) }
    }
}

#[test]
fn a_file_is_read_whole_with_many_commands_in_flight() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let to = bench.alloc(IMAGE);
    // 256 commands of 4 KiB: more than there are job slots.
    const { assert!(256 > jobs::SLOTS) };
    for page in 0..256u64 {
        bench.push(&mut pair, rw(READ, page * 8, 8, to + page * 4096));
    }
    bench.ring(&pair);
    bench.settle();
    let mut count = 0;
    while let Some(cqe) = bench.pop(&mut pair) {
        assert_eq!(cqe.status(), Status::SUCCESS);
        count += 1;
    }
    assert_eq!(count, 256);
    assert!(bench.get(to, IMAGE) == image.data);
}

#[test]
fn a_write_is_in_the_page_cache_when_it_is_acknowledged() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let from = bench.alloc(128 << 10);
    let data = pattern(12, 128 << 10);
    bench.put(from, &data);
    let sqe = bench.flat(WRITE, 100, 256, from);
    bench.succeeds(&mut pair, sqe);
    let mut seen = vec![0; 128 << 10];
    std::fs::File::open(&image.path).unwrap().read_exact_at(&mut seen, 100 * 512).unwrap();
    assert!(seen == data);
    for fua in [Rw12(255).with_fua(true).0, 255] {
        let sqe = Sqe { cdw12: fua, ..bench.flat(WRITE, 0, 256, from) };
        bench.succeeds(&mut pair, sqe);
    }
    let sqe = bench.flat(IoOpcode::COMPARE, 0, 256, from);
    bench.succeeds(&mut pair, sqe);
    bench.put(from + (100 << 10), &[data[100 << 10] ^ 1]);
    bench.refuses(&mut pair, sqe, Status::COMPARE_FAILURE.dnr());
}

#[test]
fn flushes_and_the_write_cache_feature() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, 1));
    bench.succeeds(&mut pair, Sqe::io(IoOpcode::FLUSH, NSID_ALL));
    let at = bench.alloc(4096);
    let identify =
        Sqe { prp1: at, cdw10: Cns::CONTROLLER.0.into(), ..Sqe::admin(AdminOpcode::IDENTIFY) };
    assert_eq!(bench.admin(identify).status(), Status::SUCCESS);
    assert_eq!(bench.get_as::<IdentifyController>(at).vwc, 0b111);
    let fid = FeatureId::VOLATILE_WRITE_CACHE.0;
    let feature = |opcode| Sqe { cdw10: Features10(0).with_fid(fid).0, ..Sqe::admin(opcode) };
    assert_eq!(bench.admin(feature(AdminOpcode::GET_FEATURES)).dw0, 1);
    assert_eq!(bench.admin(feature(AdminOpcode::SET_FEATURES)).status(), Status::SUCCESS);
    assert_eq!(bench.admin(feature(AdminOpcode::GET_FEATURES)).dw0, 0);
    // Without a cache every write is durable, which shows in nothing but its success.
    bench.succeeds(&mut pair, rw(WRITE, 0, 8, at));
}

#[test]
fn a_file_that_was_truncated_gives_errors_and_does_not_grow() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let at = bench.alloc(4096);
    let file = std::fs::OpenOptions::new().write(true).open(&image.path).unwrap();
    file.set_len(10 * 512 + 100).unwrap();
    bench.succeeds(&mut pair, rw(READ, 0, 8, at));
    bench.refuses(&mut pair, rw(READ, 8, 8, at), Status::UNRECOVERED_READ_ERROR.dnr());
    bench.refuses(&mut pair, rw(READ, 2000, 8, at), Status::UNRECOVERED_READ_ERROR.dnr());
    bench.refuses(&mut pair, rw(WRITE, 8, 8, at), Status::WRITE_FAULT.dnr());
    bench.refuses(&mut pair, rw(IoOpcode::WRITE_ZEROES, 8, 8, 0), Status::WRITE_FAULT.dnr());
    assert_eq!(bench.dev.errors.page()[0].lba, 8);
    bench.succeeds(&mut pair, rw(WRITE, 0, 8, at));
    assert_eq!(std::fs::metadata(&image.path).unwrap().len(), 10 * 512 + 100);
    assert_eq!(bench.dev.stats.media_errors, 4);
}

#[test]
fn zeroes_and_holes() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let before = std::fs::metadata(&image.path).unwrap().blocks();
    // The first quarter is zeroed, the second is given back.
    let zeroes = rw(IoOpcode::WRITE_ZEROES, 0, 512, 0);
    bench.succeeds(&mut pair, zeroes);
    let list = bench.alloc(4096);
    let ranges =
        [DsmRange { slba: 512, nlb: 256, cattr: 0 }, DsmRange { slba: 768, nlb: 256, cattr: 0 }];
    bench.put(list, bytemuck::cast_slice(&ranges));
    let deallocate = Sqe {
        prp1: list,
        cdw10: 1,
        cdw11: Dsm11(0).with_ad(true).0,
        ..Sqe::io(IoOpcode::DATASET_MANAGEMENT, 1)
    };
    bench.succeeds(&mut pair, deallocate);
    // The third quarter: zeroed and given back.
    let deac = Rw12(511).with_deac(true).with_fua(true).0;
    bench.succeeds(&mut pair, Sqe { cdw12: deac, ..rw(IoOpcode::WRITE_ZEROES, 1024, 1, 0) });
    let after = std::fs::read(&image.path).unwrap();
    assert_eq!(after.len(), IMAGE);
    assert!(after[..IMAGE / 4 * 3].iter().all(|byte| *byte == 0));
    assert!(after[IMAGE / 4 * 3..] == image.data[IMAGE / 4 * 3..]);
    // Not every file system can; where it can, blocks are free again.
    let blocks = std::fs::metadata(&image.path).unwrap().blocks();
    assert!(blocks <= before, "{blocks} {before}");
}

#[test]
fn a_format_erases_the_file() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let format = Sqe { nsid: 1, cdw10: 1, ..Sqe::admin(AdminOpcode::FORMAT_NVM) };
    assert_eq!(bench.admin(format).status(), Status::SUCCESS);
    assert!(std::fs::read(&image.path).unwrap() == vec![0; IMAGE]);
    let at = bench.alloc(4096);
    bench.succeeds(&mut pair, rw(READ, 255, 1, at));
    bench.refuses(&mut pair, rw(READ, 256, 1, at), Status::LBA_OUT_OF_RANGE.dnr());
}

#[test]
fn a_fault_leaves_the_file_as_it_was() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let at = bench.alloc(128 << 10);
    let mut sqe = bench.flat(WRITE, 0, 256, at);
    // The last page of the second chunk is not mapped.
    bench.put(sqe.prp2 + 30 * 8, &UNMAPPED.to_le_bytes());
    bench.refuses(&mut pair, sqe, Status::DATA_TRANSFER_ERROR);
    assert!(std::fs::read(&image.path).unwrap() == image.data);
    sqe.opcode = READ.0;
    bench.refuses(&mut pair, sqe, Status::DATA_TRANSFER_ERROR);
    bench.succeeds(&mut pair, rw(READ, 0, 8, at));
}

#[test]
fn a_sleeping_controller_is_woken_by_its_ring() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    assert!(bench.dev.idle().fds.is_empty());
    let at = bench.alloc(4096);
    bench.push(&mut pair, rw(READ, 0, 8, at));
    bench.ring(&pair);
    bench.dev.serve(&mut bench.cx);
    let idle = bench.dev.idle();
    assert_eq!(idle.fds.len(), 1);
    let mut fds =
        [rustix::event::PollFd::from_borrowed_fd(idle.fds[0], rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1);
    bench.settle();
    assert_eq!(bench.pop(&mut pair).unwrap().status(), Status::SUCCESS);
}

/// Submits without letting the operation complete: completions are reaped by a later poll.
fn start(bench: &mut Bench, pair: &mut Pair, sqe: Sqe) -> u16 {
    let cid = bench.push(pair, sqe);
    bench.ring(pair);
    bench.dev.serve(&mut bench.cx);
    assert!(!bench.dev.jobs.idle());
    cid
}

#[test]
fn a_read_under_way_is_aborted_and_touches_no_memory() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let at = bench.alloc(4096);
    let cid = start(&mut bench, &mut pair, rw(READ, 0, 8, at));
    let abort = Sqe { cdw10: u32::from(cid) << 16 | 1, ..Sqe::admin(AdminOpcode::ABORT) };
    assert_eq!(bench.admin(abort).dw0, 0);
    let aborted = bench.pop(&mut pair).unwrap();
    assert_eq!((aborted.cid, aborted.status()), (cid, Status::ABORT_REQUESTED.more()));
    assert_eq!(bench.get(at, 4096), [0; 4096]);
    assert!(bench.pop(&mut pair).is_none() && bench.dev.jobs.idle());
}

#[test]
fn a_write_under_way_is_not_aborted() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let at = bench.alloc(4096);
    let cid = start(&mut bench, &mut pair, rw(WRITE, 0, 8, at));
    let abort = Sqe { cdw10: u32::from(cid) << 16 | 1, ..Sqe::admin(AdminOpcode::ABORT) };
    assert_eq!(bench.admin(abort).dw0, 1);
    assert_eq!(bench.pop(&mut pair).unwrap().status(), Status::SUCCESS);
    assert_eq!(std::fs::read(&image.path).unwrap()[..4096], [0; 4096]);
}

#[test]
fn a_deletion_waits_for_writes_and_stops_reads() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let at = bench.alloc(8192);
    let write = start(&mut bench, &mut pair, rw(WRITE, 0, 8, at));
    let read = start(&mut bench, &mut pair, rw(READ, 8, 8, at + 4096));
    assert_eq!(bench.admin(delete(AdminOpcode::DELETE_IO_SQ, 1)).status(), Status::SUCCESS);
    let mut done: Vec<Cqe> = std::iter::from_fn(|| bench.pop(&mut pair)).collect();
    done.sort_by_key(|cqe| cqe.cid);
    assert_eq!((done[0].cid, done[0].status()), (write, Status::SUCCESS));
    assert_eq!(done[1].cid, read);
    assert!(done[1].status().is(Status::ABORTED_SQ_DELETION) || done[1].status().is_success());
    assert_eq!(bench.admin(delete(AdminOpcode::DELETE_IO_CQ, 1)).status(), Status::SUCCESS);
}

#[test]
fn a_reset_waits_for_the_kernel_and_completes_nothing() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let at = bench.alloc(128 << 10);
    let sqe = bench.flat(WRITE, 0, 256, at);
    start(&mut bench, &mut pair, sqe);
    start(&mut bench, &mut pair, rw(READ, 1000, 8, at));
    bench.write32(offset::CC, CC.with_en(false).0);
    // Not ready to be enabled again before the operations have ended.
    assert!(bench.csts().rdy() || bench.dev.jobs.idle());
    bench.settle();
    assert!(!bench.csts().rdy() && bench.dev.jobs.idle());
    assert!(bench.pop(&mut pair).is_none());
    // A function-level reset shows at once, but the next enable waits.
    bench.admin = bench.pair(0, 32);
    bench.enable(CC);
    let mut pair = bench.create_pair(1, 64);
    start(&mut bench, &mut pair, rw(WRITE, 0, 8, at));
    bench.dev.reset(&mut bench.cx);
    assert!(!bench.csts().rdy());
    bench.admin = bench.pair(0, 32);
    bench.enable(CC);
    assert!(bench.csts().rdy() && bench.dev.jobs.idle());
    assert!(bench.pop(&mut pair).is_none());
}

#[test]
fn a_controller_may_be_dropped_with_io_under_way() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let at = bench.alloc(128 << 10);
    let sqe = bench.flat(WRITE, 0, 256, at);
    start(&mut bench, &mut pair, sqe);
    start(&mut bench, &mut pair, rw(READ, 1000, 8, at));
    drop(bench);
    // The image is free again.
    self::bench(&image.path);
}

#[test]
fn a_shutdown_flushes() {
    let image = image();
    let (mut bench, mut pair) = bench(&image.path);
    let at = bench.alloc(4096);
    bench.succeeds(&mut pair, rw(WRITE, 0, 8, at));
    bench.write32(offset::CC, CC.with_shn(1).0);
    assert!(!bench.dev.jobs.idle());
    bench.settle();
    assert_eq!(bench.csts().shst(), 2);
}

#[test]
fn images_that_cannot_be_used_say_why_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let make = |name: &str, len: u64| {
        std::fs::File::create(at(name)).unwrap().set_len(len).unwrap();
        at(name)
    };
    for (path, more, says) in [
        (at("missing"), vec![], "make it first, for example: truncate -s 64M"),
        (at(""), vec![], "name a file or a block device"),
        ("/dev/null".to_owned(), vec![], "neither a regular file nor a block device"),
        (make("empty", 0), vec![], "give it a size: truncate -s 64M"),
        (make("odd", 1000), vec![], "round it up: truncate -s 1024"),
        (make("half", 512), vec![("lba", "4096")], "round it up: truncate -s 4096"),
    ] {
        let mut options = vec![("image".to_owned(), path.clone())];
        options.extend(
            more.iter().map(|(key, value): &(&str, &str)| ((*key).into(), (*value).into())),
        );
        let error = crate::soft::build(&options).err().unwrap();
        assert!(
            error.contains(says) && error.contains("image=") && !error.contains('\n'),
            "{error}"
        );
    }
    let path = make("good", 4096);
    let options = [("image".to_owned(), path)];
    let first = crate::soft::build(&options).unwrap();
    let error = crate::soft::build(&options).err().unwrap();
    assert!(error.contains("another process has it in use"), "{error}");
    drop(first);
    let readonly = ("readonly".to_owned(), "yes".to_owned());
    let options = [options[0].clone(), readonly];
    let (_one, _two) =
        (crate::soft::build(&options).unwrap(), crate::soft::build(&options).unwrap());
}

#[test]
fn the_serial_number_follows_the_image() {
    let image = image();
    let serial = || SoftNvme::builder().image(&image.path).build().unwrap().serial.clone();
    assert_eq!(serial(), serial());
    let other = self::image();
    assert_ne!(serial(), SoftNvme::builder().image(&other.path).build().unwrap().serial);
}
