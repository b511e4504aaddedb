//! Fairness: a device that is always faster than the spin budget does not keep a thread from its
//! files, sockets and timers.
//!
//! Busy tasks keep queues full until another task of the same thread is done. They spin for as long
//! as a command takes, so none of them ever sleeps by itself: without turns
//! (`Interrupt::poll_turn`) each of these tests runs into its deadline.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panic"
)]

mod common;

use std::cell::Cell;
use std::future::Future;
use std::io::{Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use common::Rig;
use doorbell::client::{Client, QueueSpec};
use doorbell::dma::DmaBox;
use doorbell_nvme::{IoError, Lba, Nvme, SharedNvme};
use doorbell_queues::SpinBudget;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

const DEADLINE: Duration = Duration::from_secs(30);

/// Ends the busy tasks: set by the task that they must not starve, or after the deadline.
#[derive(Clone, Default)]
struct Done(Arc<AtomicBool>);

impl Done {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs `body` on a thread of its own, and fails if it takes longer than the deadline. (A timer of
/// the runtime would starve with the rest.)
fn within_deadline(body: impl FnOnce(Done) + Send + 'static) {
    let done = Done::default();
    let (told, ended) = mpsc::channel();
    let theirs = done.clone();
    let thread = std::thread::spawn(move || {
        body(theirs);
        let _ = told.send(());
    });
    let in_time = ended.recv_timeout(DEADLINE);
    done.set();
    thread.join().unwrap();
    assert!(in_time.is_ok(), "starved: not done within {DEADLINE:?}");
}

/// A queue whose waits park only if the device's thread gets no processor for long.
async fn spinning(rig: &Rig, depth: u32) -> Nvme {
    let spin = SpinBudget::adaptive(5_000);
    rig.nvme_with(8 << 20, QueueSpec::depth(depth).spin(spin)).await
}

/// Keeps `depth` reads in flight until it is done; returns how many there were.
async fn keep_busy(nvme: &Nvme, depth: usize, done: &Done) -> u64 {
    let ns = nvme.namespace(1).unwrap();
    let buffers = (0..depth).map(|_| nvme.dma().alloc(512).unwrap());
    keep_reading(buffers, |at, buffer| ns.read(Lba(at as u64), buffer), done).await
}

/// The same on a queue of many threads.
async fn keep_sharing(nvme: &SharedNvme, depth: usize, done: &Done) -> u64 {
    let ns = nvme.namespace(1).unwrap();
    let buffers = (0..depth).map(|_| nvme.dma().alloc(512).unwrap());
    keep_reading(buffers, |at, buffer| ns.read(Lba(at as u64), buffer), done).await
}

async fn keep_reading<F>(
    buffers: impl Iterator<Item = DmaBox<[u8]>>,
    read: impl Fn(usize, DmaBox<[u8]>) -> F,
    done: &Done,
) -> u64
where
    F: Future<Output = Result<DmaBox<[u8]>, IoError>> + Unpin,
{
    let mut reads: Vec<Option<F>> =
        buffers.enumerate().map(|(at, buffer)| Some(read(at, buffer))).collect();
    let mut count = 0;
    std::future::poll_fn(|cx| {
        loop {
            let mut progress = false;
            for (at, slot) in reads.iter_mut().enumerate() {
                let Some(io) = slot else { continue };
                if let Poll::Ready(buffer) = Pin::new(io).poll(cx) {
                    count += 1;
                    progress = true;
                    *slot = (!done.is_set()).then(|| read(at, buffer.unwrap()));
                }
            }
            if reads.iter().all(Option::is_none) {
                return Poll::Ready(());
            }
            if !progress {
                return Poll::Pending;
            }
        }
    })
    .await;
    count
}

/// A queue for many threads, whose waits park as rarely.
async fn sharing(rig: &Rig, depth: u32) -> Arc<SharedNvme> {
    let spec = QueueSpec::depth(depth).spin(SpinBudget::adaptive(5_000));
    let client = Client::builder().arena_bytes(8 << 20).connect(&rig.socket).await.unwrap();
    Arc::new(SharedNvme::claim_shared(&client, spec).await.unwrap())
}

/// One command at a time.
async fn keep_one_busy(nvme: &Nvme, done: &Done) {
    let ns = nvme.namespace(1).unwrap();
    let mut buffer = nvme.dma().alloc(512).unwrap();
    while !done.is_set() {
        buffer = ns.read(Lba(0), buffer).await.unwrap();
    }
}

/// Reads a file block by block with tokio-uring.
async fn read_file(path: &Path, content: &[u8]) {
    let file = tokio_uring::fs::File::open(path).await.unwrap();
    let mut buffer = vec![0; 4096];
    for (at, expected) in content.chunks(4096).enumerate() {
        let (read, back) = file.read_at(buffer, at as u64 * 4096).await;
        assert_eq!(read.unwrap(), expected.len());
        assert_eq!(back, expected);
        buffer = back;
    }
    file.close().await.unwrap();
}

/// Sends words over a socket to a thread, which sends them back, and sleeps a little each time.
async fn ping_pong() {
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let echo = std::thread::spawn(move || {
        let mut word = [0; 8];
        while theirs.read_exact(&mut word).is_ok() {
            theirs.write_all(&word).unwrap();
        }
    });
    ours.set_nonblocking(true).unwrap();
    let mut ours = UnixStream::from_std(ours).unwrap();
    for number in 0..20_u64 {
        ours.write_all(&number.to_ne_bytes()).await.unwrap();
        assert_eq!(ours.read_u64_le().await.unwrap().to_le_bytes(), number.to_ne_bytes());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(ours);
    echo.join().unwrap();
}

fn file_of(len: usize) -> (tempfile::NamedTempFile, Vec<u8>) {
    let content = common::bytes(len, 7);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&content).unwrap();
    (file, content)
}

#[test]
fn a_tokio_uring_file_read_finishes_beside_a_task_that_keeps_32_commands_in_flight() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        tokio_uring::start(async move {
            let (file, content) = file_of(64 << 10);
            let nvme = spinning(&rig, 32).await;
            let busy = done.clone();
            let busy = tokio_uring::spawn(async move { keep_busy(&nvme, 32, &busy).await });
            read_file(file.path(), &content).await;
            done.set();
            assert!(busy.await.unwrap() >= 32);
        });
    });
}

#[test]
fn a_tokio_uring_file_read_finishes_beside_a_task_that_awaits_one_command_after_another() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        tokio_uring::start(async move {
            let (file, content) = file_of(64 << 10);
            let nvme = spinning(&rig, 8).await;
            let busy = done.clone();
            let busy = tokio_uring::spawn(async move { keep_one_busy(&nvme, &busy).await });
            read_file(file.path(), &content).await;
            done.set();
            busy.await.unwrap();
        });
    });
}

/// More tasks than a scheduler polls in one round, on two queues, and some that wait for slots.
#[test]
fn a_tokio_uring_file_read_finishes_beside_a_hundred_busy_tasks() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        tokio_uring::start(async move {
            let (file, content) = file_of(64 << 10);
            let queues = [Rc::new(spinning(&rig, 96).await), Rc::new(spinning(&rig, 2).await)];
            let started = Rc::new(Cell::new(0));
            let tasks: Vec<_> = (0..100)
                .map(|number| {
                    let nvme = Rc::clone(&queues[usize::from(number % 8 == 0)]);
                    let (done, started) = (done.clone(), Rc::clone(&started));
                    tokio_uring::spawn(async move {
                        started.set(started.get() + 1);
                        match number % 4 {
                            3 => drop(keep_busy(&nvme, 2, &done).await),
                            _ => keep_one_busy(&nvme, &done).await,
                        }
                    })
                })
                .collect();
            read_file(file.path(), &content).await;
            assert_eq!(started.get(), 100);
            done.set();
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
}

#[test]
fn sockets_and_timers_of_tokio_uring_go_on_beside_busy_tasks() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        tokio_uring::start(async move {
            let nvme = Rc::new(spinning(&rig, 32).await);
            let tasks: Vec<_> = (0..4)
                .map(|_| {
                    let (nvme, done) = (Rc::clone(&nvme), done.clone());
                    tokio_uring::spawn(async move { keep_busy(&nvme, 8, &done).await })
                })
                .collect();
            ping_pong().await;
            done.set();
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
}

#[test]
fn sockets_and_timers_of_tokio_go_on_beside_busy_tasks() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async move {
            let nvme = Rc::new(spinning(&rig, 32).await);
            for depth in [1, 32] {
                let stop = Done::default();
                let theirs = [done.clone(), stop.clone()];
                let nvme = Rc::clone(&nvme);
                let busy = spawn_local(async move {
                    while theirs.iter().all(|done| !done.is_set()) {
                        keep_busy(&nvme, depth, &theirs[1]).await;
                    }
                });
                ping_pong().await;
                stop.set();
                busy.await.unwrap();
            }
        });
    });
}

#[test]
fn a_runtime_of_several_threads_goes_on_beside_a_busy_task() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async move {
            let nvme = spinning(&rig, 32).await;
            let finished = done.clone();
            let other = tokio::spawn(async move {
                ping_pong().await;
                finished.set();
            });
            keep_busy(&nvme, 32, &done).await;
            other.await.unwrap();
        });
    });
}

/// A busy task for each worker of a runtime, all on one queue; sockets, timers and files (which tokio
/// reads on other threads) beside them.
fn workers_share_a_queue(workers: usize) {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(workers).enable_all().build().unwrap();
        let nvme = runtime.block_on(sharing(&rig, 32));
        let tasks: Vec<_> = (0..workers)
            .map(|_| {
                let (nvme, done) = (Arc::clone(&nvme), done.clone());
                runtime.spawn(async move { keep_sharing(&nvme, 32 / workers, &done).await })
            })
            .collect();
        let other = runtime.spawn(async {
            ping_pong().await;
            let (file, content) = file_of(64 << 10);
            let read = tokio::task::spawn_blocking(move || std::fs::read(file.path()).unwrap());
            assert_eq!(read.await.unwrap(), content);
        });
        runtime.block_on(other).unwrap();
        done.set();
        for task in tasks {
            assert!(runtime.block_on(task).unwrap() > 0);
        }
    });
}

#[test]
fn a_shared_queue_leaves_the_only_worker_of_a_runtime_its_sockets_and_timers() {
    workers_share_a_queue(1);
}

#[test]
fn a_shared_queue_leaves_two_workers_of_a_runtime_their_sockets_and_timers() {
    workers_share_a_queue(2);
}

#[test]
fn a_shared_queue_leaves_a_thread_its_sockets_and_timers() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async move {
            let nvme = sharing(&rig, 32).await;
            let theirs = done.clone();
            let busy = spawn_local(async move { keep_sharing(&nvme, 32, &theirs).await });
            ping_pong().await;
            done.set();
            assert!(busy.await.unwrap() >= 32);
        });
    });
}

#[test]
fn a_shared_queue_leaves_a_tokio_uring_thread_its_files() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        tokio_uring::start(async move {
            let (file, content) = file_of(64 << 10);
            let nvme = sharing(&rig, 32).await;
            let theirs = done.clone();
            let busy = tokio_uring::spawn(async move { keep_sharing(&nvme, 32, &theirs).await });
            read_file(file.path(), &content).await;
            done.set();
            assert!(busy.await.unwrap() >= 32);
        });
    });
}

/// A join of device, socket and timer in one task: the turn is taken within it.
#[test]
fn one_task_may_wait_for_a_queue_and_a_socket_at_once() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        tokio_uring::start(async move {
            let nvme = spinning(&rig, 32).await;
            let finish = async {
                ping_pong().await;
                done.set();
            };
            tokio::join!(keep_busy(&nvme, 32, &done), finish);
        });
    });
}

/// A busy task is dropped at any moment, a turn's among them; the others have their turns still.
#[test]
fn tasks_dropped_while_they_wait_for_their_turn_leave_the_others_theirs() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |done| {
        tokio_uring::start(async move {
            let nvme = Rc::new(spinning(&rig, 32).await);
            let busy = |depth: usize| {
                let (nvme, done) = (Rc::clone(&nvme), done.clone());
                tokio_uring::spawn(async move { keep_busy(&nvme, depth, &done).await })
            };
            let stays = busy(4);
            for _ in 0..50 {
                let leaves = [busy(4), busy(8)];
                tokio::time::sleep(Duration::from_micros(400)).await;
                leaves.iter().for_each(tokio::task::JoinHandle::abort);
                for task in leaves {
                    assert!(task.await.unwrap_err().is_cancelled());
                }
            }
            done.set();
            assert!(stays.await.unwrap() > 0);
        });
    });
}

/// A thread inside of `enter` drives no reactor, and is not made to wait for one.
#[test]
fn a_thread_that_only_entered_a_runtime_waits_for_nothing() {
    let rig = Rig::new("ram=1M");
    within_deadline(move |_| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        // Nobody would see an interrupt either: every wait spins, and does not learn that a device
        // whose thread gets no processor is not worth it.
        let spec = QueueSpec::depth(8).spin(SpinBudget::always());
        let nvme = pollster::block_on(rig.nvme_with(8 << 20, spec));
        let _entered = runtime.enter();
        let ns = nvme.namespace(1).unwrap();
        pollster::block_on(async {
            let mut buffer = nvme.dma().alloc(512).unwrap();
            for _ in 0..500 {
                buffer = ns.read(Lba(0), buffer).await.unwrap();
            }
        });
    });
}
