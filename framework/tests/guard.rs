//! A doorbell whose mapping is taken away, in real processes with real SIGBUS: the queue ends, the
//! program does not; and every other SIGBUS does what it did without us.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "these are tests")]

#[path = "support/process.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
mod process;
#[path = "support/protocol.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
mod protocol;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::ExitStatus;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use doorbell::dma::{HugePages, Memfd, Prefault, Watch, map_fd, map_revocable};
use doorbell::queues::{
    Doorbell, EndReason, Fate, Queue, QueueError, QueueName, QueueParts, SharedMem, SpinBudget,
};
use doorbell::wait::{Eventfd, interrupt_with_fate};

use process::Process;
use protocol::{Command, Loop};

/// Memory that can be taken away: not sealed.
fn revocable(len: u64) -> OwnedFd {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let fd = rustix::fs::memfd_create("bar", flags).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    fd
}

/// The same memory, opened by a process that was told where it is.
fn opened(path: &str) -> OwnedFd {
    std::fs::File::options().read(true).write(true).open(path).unwrap().into()
}

fn guarded(fd: BorrowedFd<'_>, lost: &Arc<AtomicBool>) -> (SharedMem, Eventfd) {
    let event = Eventfd::new().unwrap();
    let told = event.as_fd().try_clone_to_owned().unwrap();
    let watch = Watch { lost: Arc::clone(lost), event: told };
    (map_revocable(fd, 0, 4096, watch).unwrap(), event)
}

fn store(memory: &SharedMem, value: u32) {
    memory.store_u32(0, value, Ordering::Release).unwrap();
}

/// A mapping that nobody guards, without its memory: the next access is a SIGBUS.
fn gone() -> SharedMem {
    let fd = revocable(4096);
    let memory = map_fd(fd.as_fd(), 0, 4096, Prefault::No).unwrap();
    rustix::fs::ftruncate(&fd, 0).unwrap();
    memory
}

/// What SIGBUS does from now on, by the means of any other library.
fn set_action(handler: libc::sighandler_t, flags: libc::c_int) {
    // SAFETY: zeroes are a valid action, and the handler is one of this file or a constant of libc.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()), 0);
    }
}

/// Exits with a status that says whether it was given what the kernel gives.
extern "C" fn library(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: called for a signal, with what the kernel passes; `_exit` may be called in a handler.
    unsafe {
        let right = signal == libc::SIGBUS && (*info).si_code == libc::BUS_ADRERR;
        libc::_exit(if right && !(*info).si_addr().is_null() { 42 } else { 43 });
    }
}

/// Plays the role that [`Process::start`] names.
#[test]
fn role() {
    let Some(role) = process::role() else { return };
    let words: Vec<_> = role.iter().map(String::as_str).collect();
    let lost = Arc::new(AtomicBool::new(false));
    match words[..] {
        ["client", doorbells, other] => client(&opened(doorbells), &opened(other)),
        ["fault", before] => {
            match before {
                "default" => set_action(libc::SIG_DFL, 0),
                "library" => set_action(library as *const () as usize, libc::SA_SIGINFO),
                "ignored" => set_action(libc::SIG_IGN, 0),
                // What the test harness's runtime has installed.
                "runtime" => {}
                other => panic!("{other}"),
            }
            let fd = revocable(4096);
            let (memory, _event) = guarded(fd.as_fd(), &lost);
            rustix::fs::ftruncate(&fd, 0).unwrap();
            // Ours first, so that the others are known to come through the handler.
            store(&memory, 1);
            assert!(lost.load(Ordering::Acquire));
            println!("\nguarded");
            store(&gone(), 1);
            println!("\nalive");
        }
        ["sent", before] => {
            set_action(if before == "ignored" { libc::SIG_IGN } else { libc::SIG_DFL }, 0);
            let (_memory, _event) = guarded(revocable(4096).as_fd(), &lost);
            let pid = rustix::process::getpid();
            println!("\nguarded");
            rustix::process::kill_process(pid, rustix::process::Signal::BUS).unwrap();
            println!("\nalive");
        }
        ["displaced"] => {
            let (first, _event) = guarded(revocable(4096).as_fd(), &lost);
            set_action(libc::SIG_DFL, 0);
            let fd = revocable(4096);
            let (second, _event) = guarded(fd.as_fd(), &lost);
            rustix::fs::ftruncate(&fd, 0).unwrap();
            store(&second, 1);
            drop(first);
            println!("\nalive");
        }
        _ => panic!("no such role: {words:?}"),
    }
}

/// A queue whose doorbells another process takes away, and a second one whose nobody does.
fn client(doorbells: &OwnedFd, other: &OwnedFd) {
    let fate = Arc::new(Fate::new());
    let lost = Arc::new(AtomicBool::new(false));
    let (bar, event) = guarded(doorbells.as_fd(), &lost);
    let unharmed = Arc::new(AtomicBool::new(false));
    let (neighbour, _event) = guarded(other.as_fd(), &unharmed);
    let waited_for = event.as_fd().try_clone_to_owned().unwrap();
    let queue: Queue<Loop, ()> = Queue::new(QueueParts {
        name: QueueName { device: "test".into(), queue: 1 },
        submission: SharedMem::zeroed(4096),
        submission_entries: 16,
        entry_stores: doorbell_queues::EntryStores::Plain,
        completion: SharedMem::zeroed(4096),
        completion_entries: 16,
        slots: 8,
        submission_doorbell: Doorbell::new(bar.word32(0).unwrap(), None),
        completion_doorbell: Doorbell::new(bar.word32(4).unwrap(), None),
        interrupt: interrupt_with_fate(waited_for, None, Arc::clone(&fate)).unwrap(),
        fate: Arc::clone(&fate),
        spin: SpinBudget::default(),
    })
    .unwrap();
    let first = queue.submit((), |_, ()| Command::Nop.entry()).unwrap();
    queue.flush();
    assert_eq!(bar.load_u32(0, Ordering::Relaxed), Ok(1));
    println!("\nrung");
    // The parent answers once the memory is gone.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line, "taken\n");

    let second = queue.submit((), |_, ()| Command::Nop.entry()).unwrap();
    queue.flush();
    assert!(lost.load(Ordering::Acquire));
    assert!(event.take().unwrap(), "whoever looks after the queue is woken");
    let mut commands = [first, second];
    let cx = &mut Context::from_waker(Waker::noop());
    for in_flight in &mut commands {
        assert!(matches!(Pin::new(in_flight).poll(cx), Poll::Pending), "a fault does not say why");
    }
    fate.end(EndReason::DoorbellLost, false);
    let ended = QueueError::Ended {
        queue: QueueName { device: "test".into(), queue: 1 },
        reason: EndReason::DoorbellLost,
    };
    for in_flight in commands {
        assert_eq!(pollster::block_on(in_flight).unwrap_err().error, ended);
    }
    assert!(queue.submit((), |_, ()| Command::Nop.entry()).is_err());
    // The mapping can be used as before, and reaches nobody; the other one still reaches its memory.
    store(&bar, 7);
    assert_eq!(bar.load_u32(0, Ordering::Relaxed), Ok(7));
    store(&neighbour, 9);
    assert!(!unharmed.load(Ordering::Acquire));
    println!("\n{ended}");
}

#[test]
fn a_doorbell_that_another_process_takes_away_ends_the_queue_and_not_the_program() {
    let (doorbells, other) = (revocable(4096), revocable(4096));
    let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", rustix::process::getpid(), fd.as_raw_fd());
    let mut client = Process::start("role", &["client", &path(&doorbells), &path(&other)]);
    client.says("rung");
    rustix::fs::ftruncate(&doorbells, 0).unwrap();
    client.tell("taken\n");
    let said = client.says("device test");
    assert!(said.contains("its doorbell was taken away"), "{said}");
    let status = client.ended();
    assert!(status.success(), "{status}");
    let seen = map_fd(other.as_fd(), 0, 4096, Prefault::No).unwrap();
    assert_eq!(seen.load_u32(0, Ordering::Acquire), Ok(9), "the neighbour's doorbell works");
}

fn ends(role: &[&str]) -> ExitStatus {
    let mut process = Process::start("role", role);
    process.says("guarded");
    process.ended()
}

#[test]
fn any_other_fault_goes_to_the_handler_that_was_there_before() {
    let status = ends(&["fault", "library"]);
    assert_eq!(status.code(), Some(42), "{status}");
}

#[test]
fn any_other_fault_ends_the_program_as_it_did() {
    for before in ["default", "runtime", "ignored"] {
        let status = ends(&["fault", before]);
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{before}: {status}");
    }
}

#[test]
fn a_sigbus_that_a_process_sent_does_what_it_did() {
    let status = ends(&["sent", "default"]);
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    assert!(ends(&["sent", "ignored"]).success());
}

#[test]
fn after_the_default_was_put_back_the_next_mapping_is_guarded() {
    let mut process = Process::start("role", &["displaced"]);
    process.says("alive");
    assert!(process.ended().success());
}

#[test]
fn memory_that_cannot_shrink_needs_no_guard() {
    let memfd = Memfd::create("test", 4096, HugePages::No).unwrap();
    assert!(Memfd::cannot_shrink(memfd.as_fd()));
    assert!(!Memfd::cannot_shrink(revocable(4096).as_fd()));
    assert!(!Memfd::cannot_shrink(tempfile::tempfile().unwrap().as_fd()));
    let (memory, _event) = guarded(memfd.as_fd(), &Arc::default());
    store(&memory, 1);
}
