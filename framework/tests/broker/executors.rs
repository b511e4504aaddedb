//! The same futures on every executor, parked on the interrupt: a command that is held completes
//! only after its task has gone to sleep.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use doorbell::client::{Client, QueueSpec};
use doorbell::queues::SpinBudget;

use crate::support::{Answer, Command, OK, Op, Plain, TestBroker, claim_with, run};

/// No spinning: every wait parks.
fn sleepy(depth: u32) -> QueueSpec {
    QueueSpec::depth(depth).spin(SpinBudget::adaptive(0))
}

async fn release(client: &Client) {
    let answer: Answer = client.admin(&Op::Release).await.unwrap();
    assert_eq!(answer, Answer::Done);
}

/// Lets held commands complete, from another thread, until it is dropped.
struct Releaser {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Releaser {
    fn start(client: &Client) -> Self {
        let (client, stop) = (client.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                pollster::block_on(release(&client));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Releaser {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Commands that complete at once, and commands that only the interrupt can tell of.
async fn many(client: &Client, queue: &Plain) {
    for _ in 0..50 {
        assert_eq!(run(queue, Command::Nop).await, OK);
    }
    let _releaser = Releaser::start(client);
    for _ in 0..10 {
        let held: Vec<_> =
            (0..8).map(|_| queue.submit((), |_, ()| Command::Hold.entry()).unwrap()).collect();
        for command in held {
            assert_eq!(command.await.unwrap().0.status, OK);
        }
    }
}

#[test]
fn bare_block_on() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    pollster::block_on(async {
        let queue = claim_with(&client, sleepy(8)).await;
        many(&client, &queue).await;
    });
}

#[test]
fn tokio_current_thread() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let queue = claim_with(&client, sleepy(8)).await;
        many(&client, &queue).await;
    });
}

#[test]
fn tokio_multi_thread() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    runtime.block_on(async {
        let queue = claim_with(&client, sleepy(8)).await;
        many(&client, &queue).await;
    });
    // And the queue moves between threads of the runtime.
    let mut queue = runtime.block_on(claim_with(&client, sleepy(8)));
    for _ in 0..4 {
        let client = client.clone();
        let moved = runtime.spawn_blocking(move || {
            tokio::runtime::Handle::current().block_on(many(&client, &queue));
            queue
        });
        queue = runtime.block_on(moved).unwrap();
    }
}

#[test]
fn tokio_uring() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let Ok(runtime) = tokio_uring::Runtime::new(&tokio_uring::builder()) else {
        println!("no io_uring here");
        return;
    };
    runtime.block_on(async {
        let queue = claim_with(&client, sleepy(8)).await;
        many(&client, &queue).await;
    });
}

#[test]
fn one_queue_on_one_executor_after_the_other() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let queue = pollster::block_on(claim_with(&client, sleepy(8)));
    for _ in 0..3 {
        pollster::block_on(many(&client, &queue));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(many(&client, &queue));
        runtime.block_on(many(&client, &queue));
        // Another runtime, while the first still lives.
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        other.block_on(many(&client, &queue));
        runtime.block_on(many(&client, &queue));
    }
}

#[test]
fn a_task_that_is_never_polled_again_keeps_nobody_from_waking() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let queue = Rc::new(claim_with(&client, sleepy(16)).await);
        // Parks, and is then forgotten with its waker registered.
        let mut forgotten = Box::pin(queue.submit((), |_, ()| Command::Hang.entry()).unwrap());
        std::future::poll_fn(|cx| {
            assert!(forgotten.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let queue = Rc::clone(&queue);
                tokio::task::spawn_local(async move { run(&queue, Command::Hold).await })
            })
            .collect();
        let aborted = {
            let queue = Rc::clone(&queue);
            tokio::task::spawn_local(async move { run(&queue, Command::Hold).await })
        };
        tokio::task::yield_now().await;
        aborted.abort();
        while queue.in_flight() > 2 {
            release(&client).await;
            tokio::task::yield_now().await;
        }
        for task in tasks {
            assert_eq!(task.await.unwrap(), OK);
        }
        drop(forgotten);
    });
}
