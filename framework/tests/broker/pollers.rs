//! Queues on pollers: parking, sleeping and waking, ends of all kinds, tasks that panic or are dropped,
//! and what `status` shows.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use doorbell::Deadline;
use doorbell::client::{Client, QueueSpec};
use doorbell::poll::{Poller, PollerState, Pollers, TaskError, is_poller, spawn_local};
use doorbell::queues::{EndReason, SpinBudget};
use doorbell::wire::{PollerStatus, RevokeTarget};

use crate::support::protocol::ABORTED;
use crate::support::{
    Answer, Command, OK, Op, PATIENCE, Plain, TestBroker, claim, claim_with, run, run_to_end, short,
};

/// Pollers that sleep as soon as they have nothing to do.
fn sleepy() -> Pollers {
    Pollers::builder().spin(SpinBudget::adaptive(0)).build()
}

fn poller() -> Poller {
    sleepy().near(None).unwrap()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !done() {
        assert!(!deadline.expired(), "waited for {what}");
        std::thread::yield_now();
    }
}

async fn release(client: &Client) {
    let answer: Answer = client.admin(&Op::Release).await.unwrap();
    assert_eq!(answer, Answer::Done);
}

/// Lets held commands complete until all of a queue's slots are free.
fn release_until_empty(client: &Client, left: &AtomicU32) {
    until("held commands to complete", || {
        pollster::block_on(release(client));
        left.load(Ordering::Relaxed) == 0
    });
}

#[test]
fn commands_complete_while_the_poller_is_awake_and_after_it_slept() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let (poller, left) = (poller(), Arc::new(AtomicU32::new(8)));
    let task = {
        let (client, left) = (client.clone(), Arc::clone(&left));
        poller.spawn(move || async move {
            assert!(is_poller());
            let queue = Rc::new(claim(&client, 16).await);
            for _ in 0..200 {
                assert_eq!(run(&queue, Command::Nop).await, OK);
            }
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let (queue, left) = (Rc::clone(&queue), Arc::clone(&left));
                    spawn_local(async move {
                        assert_eq!(run(&queue, Command::Hold).await, OK);
                        left.fetch_sub(1, Ordering::Relaxed);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        })
    };
    // All eight are parked and the thread is asleep before anything is released.
    until("the poller to sleep on its tasks", || {
        let counters = poller.counters();
        counters.state == PollerState::Asleep && counters.tasks == 9 && counters.queues == 1
    });
    release_until_empty(&client, &left);
    pollster::block_on(task).unwrap();
    let counters = poller.counters();
    assert!(counters.sleeps > 0 && counters.polls > 200 && counters.busy_turns <= counters.turns);
}

#[test]
fn a_task_is_woken_from_another_thread_while_the_poller_sleeps() {
    let poller = poller();
    let (send, receive) = tokio::sync::oneshot::channel::<u32>();
    let task = poller.spawn(move || async move { receive.await.unwrap() + 1 });
    until("the poller to sleep", || {
        let counters = poller.counters();
        counters.state == PollerState::Asleep && counters.tasks == 1
    });
    send.send(41).unwrap();
    assert_eq!(pollster::block_on(task).unwrap(), 42);
    // It tells when it goes to sleep again.
    until("the poller to tell that it was woken", || poller.counters().wakes > 0);
}

#[test]
fn wakes_from_several_threads_are_never_lost() {
    let poller = poller();
    let threads: Vec<_> = (0..4_u32)
        .map(|seed| {
            let poller = poller.clone();
            std::thread::spawn(move || {
                let (send, mut receive) = tokio::sync::mpsc::channel::<u32>(1);
                let sum = poller.spawn(move || async move {
                    let mut sum = 0;
                    while let Some(number) = receive.recv().await {
                        sum += number;
                    }
                    sum
                });
                for number in 0..500 {
                    send.blocking_send(number + seed).unwrap();
                }
                drop(send);
                assert_eq!(pollster::block_on(sum).unwrap(), 499 * 250 + 500 * seed);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn several_queues_of_two_devices_share_a_poller() {
    let brokers = [TestBroker::start("soft:loop"), TestBroker::start("soft:loop")];
    let clients = [brokers[0].connect(), brokers[1].connect()];
    let poller = poller();
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let client = clients[number % 2].clone();
            poller.spawn(move || async move {
                let queue = claim(&client, 8).await;
                for _ in 0..100 {
                    let batch: Vec<_> = (0..6)
                        .map(|_| queue.submit((), |_, ()| Command::Nop.entry()).unwrap())
                        .collect();
                    for command in batch {
                        assert_eq!(command.await.unwrap().0.status, OK);
                    }
                }
                queue.release().await.unwrap();
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| pollster::block_on(task).unwrap());
    until("the queues to be gone", || {
        // The counters are published at the next look at the clock or before a sleep.
        poller.counters().queues == 0
    });
}

#[test]
fn more_tasks_than_slots_get_their_turn() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let done = poller().spawn(move || async move {
        let queue = Rc::new(claim(&client, 2).await);
        let mut tasks = Vec::new();
        for _ in 0..32 {
            let queue = Rc::clone(&queue);
            tasks.push(spawn_local(async move {
                loop {
                    match queue.submit((), |_, ()| Command::Nop.entry()) {
                        Ok(command) => break command.await.unwrap().0.status,
                        Err(_) => queue.slot_free().await.unwrap(),
                    }
                }
            }));
        }
        for task in tasks {
            assert_eq!(task.await.unwrap(), OK);
        }
    });
    pollster::block_on(done).unwrap();
}

#[test]
fn a_task_that_is_never_polled_again_keeps_nobody_from_waking() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let (poller, left) = (poller(), Arc::new(AtomicU32::new(4)));
    let task = {
        let (client, left) = (client.clone(), Arc::clone(&left));
        poller.spawn(move || async move {
            let queue = Rc::new(claim(&client, 16).await);
            // The first in line: it is woken for the first completion, and is not there any more.
            let first = {
                let queue = Rc::clone(&queue);
                spawn_local(async move { run(&queue, Command::Hold).await })
            };
            let others: Vec<_> = (0..4)
                .map(|_| {
                    let (queue, left) = (Rc::clone(&queue), Arc::clone(&left));
                    spawn_local(async move {
                        assert_eq!(run(&queue, Command::Hold).await, OK);
                        left.fetch_sub(1, Ordering::Relaxed);
                    })
                })
                .collect();
            // They are in the order in which they were made: all of them run before this goes on.
            spawn_local(async {}).await.unwrap();
            first.abort();
            assert!(matches!(first.await, Err(TaskError::Aborted { .. })));
            for task in others {
                task.await.unwrap();
            }
        })
    };
    release_until_empty(&client, &left);
    pollster::block_on(task).unwrap();
}

/// The waker of a future within a task, as combinators of many futures make them.
struct Within {
    task: Waker,
    woken: Arc<AtomicU32>,
}

impl Wake for Within {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

#[test]
fn a_future_with_a_waker_of_its_own_is_woken_by_it() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let (poller, left) = (poller(), Arc::new(AtomicU32::new(1)));
    let task = {
        let (client, left) = (client.clone(), Arc::clone(&left));
        poller.spawn(move || async move {
            let queue = claim(&client, 4).await;
            let mut inner = Box::pin(run(&queue, Command::Hold));
            let woken = Arc::new(AtomicU32::new(0));
            let status = std::future::poll_fn(|cx| {
                let within = Within { task: cx.waker().clone(), woken: Arc::clone(&woken) };
                let waker = Waker::from(Arc::new(within));
                inner.as_mut().poll(&mut Context::from_waker(&waker))
            });
            assert_eq!(status.await, OK);
            left.store(0, Ordering::Relaxed);
            woken.load(Ordering::Relaxed)
        })
    };
    release_until_empty(&client, &left);
    assert!(pollster::block_on(task).unwrap() > 0);
}

#[test]
fn a_queue_that_is_revoked_while_the_poller_sleeps_ends() {
    let broker = TestBroker::start("soft:loop");
    let (client, operator) = (broker.connect(), broker.connect());
    let session = client.session();
    let poller = poller();
    let task = poller.spawn(move || async move {
        let queue = claim(&client, 4).await;
        run_to_end(&queue, Command::Hang).await
    });
    until("the task to be parked", || {
        let counters = poller.counters();
        counters.queues == 1 && counters.state == PollerState::Asleep
    });
    pollster::block_on(operator.revoke(RevokeTarget::Session(session))).unwrap();
    assert_eq!(pollster::block_on(task).unwrap(), EndReason::Revoked);
}

#[test]
fn a_broker_that_goes_away_ends_its_queues() {
    let mut broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let poller = poller();
    let task = poller.spawn(move || async move {
        let queue = claim(&client, 4).await;
        run_to_end(&queue, Command::Hang).await
    });
    until("the task to be parked", || poller.counters().queues == 1);
    broker.stop();
    assert_eq!(pollster::block_on(task).unwrap(), EndReason::BrokerGone);
    assert_eq!(pollster::block_on(poller.spawn(|| async { 7 })).unwrap(), 7, "it goes on");
}

#[test]
fn a_command_that_hangs_is_aborted_by_its_time_limit() {
    let broker = TestBroker::with("soft:loop", |builder| builder.timeouts(short()));
    let client = broker.connect();
    let task = poller().spawn(move || async move {
        let spec = QueueSpec::depth(4).time_limit(Duration::from_millis(300));
        let queue = claim_with(&client, spec).await;
        assert_eq!(run(&queue, Command::Hang).await, ABORTED);
        assert_eq!(run(&queue, Command::Nop).await, OK);
    });
    pollster::block_on(task).unwrap();
}

#[test]
fn a_task_that_panics_ends_alone() {
    let poller = poller();
    let (send, receive) = tokio::sync::oneshot::channel::<()>();
    let survivor = poller.spawn(move || async move { receive.await.is_ok() });
    let panics = poller.spawn(|| async { panic!("on purpose: {}", 1 + 1) });
    let error = pollster::block_on(panics).unwrap_err();
    assert!(matches!(&error, TaskError::Panicked { message, .. } if message == "on purpose: 2"));
    // So does one whose future cannot even be made, and one that panics as it is dropped.
    let unmade = poller.spawn(|| {
        assert!(!is_poller(), "it is made here");
        async {}
    });
    assert!(matches!(pollster::block_on(unmade), Err(TaskError::Panicked { .. })));
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose, in a drop");
        }
    }
    let bomb = poller.spawn(|| async {
        let _bomb = Bomb;
        std::future::pending::<()>().await;
    });
    bomb.abort();
    assert!(pollster::block_on(bomb).is_err());
    send.send(()).unwrap();
    assert!(pollster::block_on(survivor).unwrap());
}

/// Tells when it is dropped.
struct Tells(Arc<AtomicBool>);

impl Drop for Tells {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_poller_that_is_stopped_drops_its_tasks_with_commands_in_flight() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let poller = poller();
    let dropped = Arc::new(AtomicBool::new(false));
    let task = {
        let tells = Tells(Arc::clone(&dropped));
        poller.spawn(move || async move {
            let queue = claim(&client, 4).await;
            let _tells = tells;
            run(&queue, Command::Hang).await
        })
    };
    until("the task to be parked", || poller.counters().queues == 1);
    poller.stop(PATIENCE).unwrap();
    assert!(dropped.load(Ordering::Acquire));
    assert!(matches!(pollster::block_on(task), Err(TaskError::PollerEnded { .. })));
    assert!(matches!(
        pollster::block_on(poller.spawn(|| async {})),
        Err(TaskError::PollerEnded { .. })
    ));
    assert_eq!(poller.counters().state, PollerState::Ended);
    // The queue was given back.
    broker.until("the queue to be released", |status| {
        status.sessions.iter().all(|session| session.queues.is_empty())
    });
}

#[test]
fn a_poller_ends_with_its_last_handle_and_not_before() {
    let dropped = Arc::new(AtomicBool::new(false));
    let tells = Tells(Arc::clone(&dropped));
    let (send, receive) = tokio::sync::oneshot::channel::<()>();
    let (poller, kept) = (poller(), poller());
    drop(poller.spawn(move || async move {
        let _tells = tells;
        std::future::pending::<()>().await;
    }));
    let handle = kept.spawn(move || async move { receive.await.is_ok() });
    drop(kept);
    drop(poller);
    until("the task to be dropped", || dropped.load(Ordering::Acquire));
    send.send(()).unwrap();
    assert!(pollster::block_on(handle).unwrap(), "a task's handle keeps its poller");
}

#[test]
fn no_task_keeps_the_others_from_running() {
    let poller = poller();
    let stop = Arc::new(AtomicBool::new(false));
    let greedy = {
        let stop = Arc::clone(&stop);
        poller.spawn(move || {
            std::future::poll_fn(move |cx| {
                if stop.load(Ordering::Relaxed) {
                    return std::task::Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            })
        })
    };
    assert_eq!(pollster::block_on(poller.spawn(|| async { 1 })).unwrap(), 1);
    stop.store(true, Ordering::Relaxed);
    pollster::block_on(greedy).unwrap();
}

#[test]
fn a_queue_moves_between_a_poller_and_others() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let mut queue =
        pollster::block_on(claim_with(&client, QueueSpec::depth(4).spin(SpinBudget::adaptive(0))));
    let pollers = [poller(), poller()];
    for round in 0..6 {
        let use_it = |queue: Plain| async move {
            for _ in 0..20 {
                assert_eq!(run(&queue, Command::Nop).await, OK);
            }
            queue
        };
        queue = match pollers.get(round % 3) {
            Some(poller) => pollster::block_on(poller.spawn(move || use_it(queue))).unwrap(),
            None => pollster::block_on(use_it(queue)),
        };
    }
    drop(queue);
    until("both to have let go of it", || {
        pollers.iter().all(|poller| poller.counters().queues == 0)
    });
}

#[test]
fn a_local_device_and_its_threads_may_be_started_on_a_poller() {
    let all = doorbell::topology::allowed().unwrap();
    let task = poller().spawn(move || async move {
        let here = doorbell::topology::allowed().unwrap();
        let client = doorbell::local::open("soft:loop", &crate::support::registry()).await.unwrap();
        let queue = claim(&client, 4).await;
        assert_eq!(run(&queue, Command::Nop).await, OK);
        here
    });
    let here = pollster::block_on(task).unwrap();
    assert!(here.len() == 1 && here.iter().all(|cpu| all.contains(cpu)), "it is pinned");
}

#[test]
fn the_least_loaded_poller_of_a_node_is_given() {
    let pollers = Pollers::builder().per_node(2).spin(SpinBudget::adaptive(0)).name("two").build();
    let first = pollers.near(None).unwrap();
    assert_eq!(pollers.near(None).unwrap().name(), first.name(), "it has nothing to do");
    let busy = first.spawn(std::future::pending::<()>);
    let second = pollers.near(None).unwrap();
    assert_ne!(second.name(), first.name());
    let more = [second.spawn(std::future::pending::<()>), second.spawn(std::future::pending::<()>)];
    assert_eq!(pollers.near(None).unwrap().name(), first.name(), "there are two at most");
    // A node that this machine does not have is as good as none.
    assert_eq!(pollers.near(Some(4711)).unwrap().name(), first.name());
    assert_eq!(pollers.list().len(), 2);
    assert!(first.name().starts_with("two-any-"));
    first.stop(PATIENCE).unwrap();
    assert_eq!(pollers.list().len(), 1);
    drop((busy, more));
}

#[test]
fn memory_that_cannot_be_bound_is_no_reason_not_to_poll() {
    // A node that hwloc's description has and this machine has not.
    let topology = doorbell::topology::Topology::from_synthetic("NUMANode:64 Core:1 PU:1").unwrap();
    let pollers = Pollers::builder().topology(topology).build();
    let poller = pollers.near(Some(63)).unwrap();
    let placement = poller.placement();
    assert_eq!((placement.node, placement.memory), (Some(63), None));
    assert!(placement.trouble.contains("node 63"), "{}", placement.trouble);
    assert_eq!(pollster::block_on(poller.spawn(|| async { 3 })).unwrap(), 3);
}

#[test]
fn status_shows_pollers_and_what_they_serve() {
    let broker = TestBroker::start("soft:loop");
    let client = broker.connect();
    let session = client.session();
    let pollers = sleepy();
    let node = doorbell::topology::Topology::load().nodes().next();
    let poller = pollers.near(node).unwrap();
    let (send, receive) = tokio::sync::oneshot::channel::<()>();
    let task = poller.spawn(move || async move {
        let queues = [claim(&client, 4).await, claim(&client, 4).await];
        assert_eq!(run(&queues[0], Command::Nop).await, OK);
        receive.await.unwrap();
        client
    });
    let pollers_of = |status: &doorbell::wire::StatusReport| -> Vec<PollerStatus> {
        let found = status.sessions.iter().find(|found| found.session == session);
        found.map(|found| found.pollers.clone()).unwrap_or_default()
    };
    let name = poller.name().to_owned();
    broker.until("the poller with two queues", |status| {
        let found = pollers_of(status);
        let Some(PollerStatus { about, queues, counters: Some(counters) }) = found.first() else {
            return false;
        };
        assert_eq!((about.name.as_str(), about.node), (name.as_str(), node));
        assert_eq!(about.cpu, poller.placement().cpu);
        queues.len() == 2 && counters.tasks == 1 && counters.polls > 0 && counters.sleeps > 0
    });
    send.send(()).unwrap();
    let client = pollster::block_on(task).unwrap();
    broker.until("no queue", |status| pollers_of(status).iter().all(|one| one.queues.is_empty()));
    poller.stop(PATIENCE).unwrap();
    broker.until("no poller", |status| pollers_of(status).is_empty());
    drop(client);
}
