//! Turns, counted instead of timed: a device that completes every command at once, on the task's
//! own thread, so that no wait ever has a reason to sleep.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use doorbell::queues::{Interrupt, NextCompletion, Parked, SpinBudget, WaitError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

use crate::protocol::Command;
use crate::rig::{rig, within_deadline};

/// After so many commands a task that still runs alone has starved the others for seconds.
const TOO_MANY: u64 = 20_000_000;

/// An interrupt that knows of no turns, as one that a queue without a runtime may have.
struct NoTurns(Box<dyn Interrupt>);

impl Interrupt for NoTurns {
    fn arm(&self, next: &NextCompletion<'_>) {
        self.0.arm(next);
    }

    fn poll_fired(&self, cx: &mut Context<'_>, parked: &mut Parked) -> Poll<Result<(), WaitError>> {
        self.0.poll_fired(cx, parked)
    }
}

/// Awaits commands of a device that completes them at once, until `done` or too many; true if it
/// was done in time.
async fn busy(turns: bool, most: u64, done: Rc<Cell<bool>>) -> bool {
    let wrap = |interrupt| if turns { interrupt } else { Box::new(NoTurns(interrupt)) as _ };
    let (queue, mut device) = rig(SpinBudget::default(), wrap);
    for _ in 0..most {
        let command = queue.submit((), |_, ()| Command::Nop.entry()).unwrap();
        queue.flush();
        device.run();
        command.await.unwrap();
        if done.get() {
            return true;
        }
    }
    false
}

/// Runs `other` beside a busy task of the same thread; true if it was done in time.
async fn beside(turns: bool, most: u64, other: impl Future<Output = ()> + 'static) -> bool {
    let done = Rc::new(Cell::new(false));
    let told = Rc::clone(&done);
    let other = spawn_local(async move {
        other.await;
        told.set(true);
    });
    let in_time = busy(turns, most, done).await;
    other.await.unwrap();
    in_time
}

async fn read_a_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 8192]).unwrap();
    let file = tokio_uring::fs::File::open(file.path()).await.unwrap();
    for at in [0, 4096] {
        let (read, buffer) = file.read_at(vec![0; 4096], at).await;
        assert_eq!((read.unwrap(), buffer), (4096, vec![7; 4096]));
    }
    file.close().await.unwrap();
}

async fn use_a_socket_and_a_timer() {
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let echo = std::thread::spawn(move || {
        let mut word = [0; 8];
        theirs.read_exact(&mut word).unwrap();
        theirs.write_all(&word).unwrap();
    });
    let mut ours = tokio::net::UnixStream::from_std(ours).unwrap();
    ours.write_all(&[9; 8]).await.unwrap();
    let mut word = [0; 8];
    ours.read_exact(&mut word).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    echo.join().unwrap();
    assert_eq!(word, [9; 8]);
}

fn tokio_current_thread(body: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, body);
}

#[test]
fn a_file_is_read_beside_a_task_that_never_sleeps() {
    within_deadline(|| {
        tokio_uring::start(async {
            assert!(beside(true, TOO_MANY, read_a_file()).await);
        });
    });
}

#[test]
fn without_turns_the_file_is_not_read() {
    within_deadline(|| {
        tokio_uring::start(async {
            assert!(!beside(false, TOO_MANY / 100, read_a_file()).await);
        });
    });
}

#[test]
fn a_socket_and_a_timer_go_on_beside_a_task_that_never_sleeps() {
    within_deadline(|| {
        tokio_current_thread(async {
            assert!(beside(true, TOO_MANY, use_a_socket_and_a_timer()).await);
        });
        tokio_uring::start(async {
            assert!(beside(true, TOO_MANY, use_a_socket_and_a_timer()).await);
        });
    });
}

#[test]
fn without_turns_the_socket_and_the_timer_starve() {
    within_deadline(|| {
        tokio_current_thread(async {
            assert!(!beside(false, TOO_MANY / 100, use_a_socket_and_a_timer()).await);
        });
    });
}

/// A hundred tasks: more than a scheduler polls between two looks at its files, so that the
/// reactor reports the nudge before all of them have come to rest.
#[test]
fn a_file_is_read_beside_many_tasks_that_never_sleep() {
    within_deadline(|| {
        tokio_uring::start(async {
            let done = Rc::new(Cell::new(false));
            let tasks: Vec<_> =
                (0..100).map(|_| spawn_local(busy(true, TOO_MANY, Rc::clone(&done)))).collect();
            read_a_file().await;
            done.set(true);
            for task in tasks {
                assert!(task.await.unwrap());
            }
        });
    });
}

/// A task that is always ready, and none of ours, keeps its thread awake; ours go on all the same.
#[test]
fn a_foreign_task_that_is_always_ready_does_not_hold_up_the_busy_one() {
    within_deadline(|| {
        tokio_current_thread(async {
            let foreign = spawn_local(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
            assert!(beside(true, TOO_MANY, use_a_socket_and_a_timer()).await);
            assert!(!busy(true, 1_000_000, Rc::new(Cell::new(false))).await, "all of them ran");
            foreign.abort();
        });
    });
}

/// Turns of one runtime are over when the next begins; nothing of the first is waited for.
#[test]
fn one_thread_may_have_one_runtime_after_another() {
    within_deadline(|| {
        for _ in 0..5 {
            tokio_current_thread(async {
                assert!(beside(true, TOO_MANY, use_a_socket_and_a_timer()).await);
            });
            tokio_uring::start(async {
                assert!(beside(true, TOO_MANY, read_a_file()).await);
            });
            pollster::block_on(busy(true, 1_000, Rc::new(Cell::new(false))));
        }
    });
}
