//! Tasks of several threads that park on one interrupt line: an eventfd, watched by the epoll
//! instance of each runtime, and perhaps by a thread outside of them.
//!
//! The kernel's part is what epoll does to an edge-triggered eventfd. A write adds to the counter and
//! puts the descriptor on the ready list of each instance, each time. An instance that looks at its
//! list drops a descriptor that is not readable any more: so who takes the event before another
//! runtime looked takes that runtime's report as well.
//!
//! The eventfd is a counter under a lock, as in the kernel, and not an atomic of loom. Loom lets a
//! store move past a read-modify-write that has read an older value, which the memory model forbids:
//! a reactor that looks at such a word would find an event gone that nobody has taken.

use core::sync::atomic::Ordering;

use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
use loom::thread;

use super::LoomWord;
use crate::mem::Word;
use crate::wait::{arm_word, must_signal};

/// Tasks, each the only one of its thread.
const TASKS: usize = 2;

/// What is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum But {
    Nothing,
    /// Who took the event wakes nobody.
    TakerWakesNobody,
    /// Who is new on the line does not look again.
    NoSecondLook,
}

/// Who watches the eventfd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watched {
    /// A runtime of one thread for each task.
    Runtimes,
    /// The same, and a thread outside of them, which takes the event for the tasks.
    AndThread,
}

/// Under one lock: each step of the kernel's, and of a reactor's, is one.
#[derive(Default)]
struct Kernel {
    counter: u32,
    /// The descriptor is on the instance's ready list.
    listed: [bool; TASKS],
    /// The runtime's waker was called from elsewhere.
    unparked: [bool; TASKS],
    /// The device has done all that it will do.
    over: bool,
    /// The reactor's note that the descriptor is readable. Only its own thread uses it.
    readable: [bool; TASKS],
}

#[derive(Clone)]
struct Line {
    but: But,
    armed: LoomWord,
    fired: LoomWord,
    kernel: Arc<(Mutex<Kernel>, [Condvar; TASKS])>,
    parked: Arc<Mutex<[bool; TASKS]>>,
}

impl Line {
    fn new(but: But) -> Self {
        let kernel = (Mutex::new(Kernel::default()), [(); TASKS].map(|()| Condvar::new()));
        let parked = Arc::new(Mutex::new([false; TASKS]));
        let (armed, fired) = (LoomWord::new(), LoomWord::new());
        Self { but, armed, fired, kernel: Arc::new(kernel), parked }
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.0.lock().unwrap()
    }

    fn wake_all(&self) {
        let parked = std::mem::take(&mut *self.parked.lock().unwrap());
        for task in (0..TASKS).filter(|task| parked[*task]) {
            self.kernel().unparked[task] = true;
            self.kernel.1[task].notify_one();
        }
    }

    /// Device: a completion is there.
    fn complete(&self, completion: &LoomWord, watched: Watched) {
        completion.store(1, Ordering::Release);
        if !must_signal(&self.armed) {
            return;
        }
        {
            let kernel = &mut *self.kernel();
            kernel.counter += 1;
            kernel.listed = [true; TASKS];
        }
        self.kernel.1.iter().for_each(Condvar::notify_one);
        // The thread outside, at its time.
        if watched == Watched::AndThread && std::mem::take(&mut self.kernel().counter) > 0 {
            self.fired.store(1, Ordering::Release);
            self.wake_all();
        }
    }

    /// A task until its completion is there; false if it sleeps, and the device is done.
    fn wait(&self, task: usize, completion: &LoomWord) -> bool {
        loop {
            arm_word(&self.armed);
            if completion.load(Ordering::Acquire) != 0 {
                self.parked.lock().unwrap()[task] = false;
                return true;
            }
            let known = std::mem::replace(&mut self.parked.lock().unwrap()[task], true);
            if !known && self.but != But::NoSecondLook {
                continue;
            }
            if self.fired.load(Ordering::Relaxed) != 0 && self.fired.swap(0, Ordering::Acquire) != 0
            {
                self.parked.lock().unwrap()[task] = false;
                continue;
            }
            if self.take(task) {
                self.parked.lock().unwrap()[task] = false;
                if self.but != But::TakerWakesNobody {
                    self.wake_all();
                }
                continue;
            }
            if !self.sleep(task) {
                return false;
            }
        }
    }

    /// Takes the event, if the task's own reactor has reported it and nobody else took it.
    fn take(&self, task: usize) -> bool {
        let kernel = &mut *self.kernel();
        std::mem::take(&mut kernel.readable[task]) && std::mem::take(&mut kernel.counter) > 0
    }

    /// The task's thread in epoll, until there is something to report or it is woken; false if that
    /// has not happened by the time the device is done.
    fn sleep(&self, task: usize) -> bool {
        let mut kernel = self.kernel();
        loop {
            let listed = std::mem::take(&mut kernel.listed[task]);
            let reported = listed && kernel.counter > 0;
            kernel.readable[task] |= reported;
            let woken = std::mem::take(&mut kernel.unparked[task]);
            if reported {
                drop(kernel);
                self.wake_all();
                return true;
            }
            if woken || kernel.over {
                return woken;
            }
            kernel = self.kernel.1[task].wait(kernel).unwrap();
        }
    }

    fn is_woken(&self, task: usize) -> bool {
        let kernel = self.kernel();
        kernel.unparked[task] || kernel.listed[task] && kernel.counter > 0
    }

    fn end(&self) {
        self.kernel().over = true;
        self.kernel.1.iter().for_each(Condvar::notify_one);
    }
}

/// The waits of one task, one after the other: how many are over.
fn waits(line: &Line, task: usize, completions: &[LoomWord]) -> usize {
    completions.iter().take_while(|completion| line.wait(task, completion)).count()
}

/// What was before the model begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// The first task's reactor has reported an event that the task has not taken: it takes the next
    /// one with it, unreported.
    AnEventNotTaken,
}

/// The device completes for one task (unless that was before), then for the other, and no more: no
/// later signal makes up for one that was lost. The first task waits for another completion after
/// that, which does not come.
fn tasks(before: Before, watched: Watched, but: But) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(if before == Before::Nothing { 2 } else { 3 });
    model.check(move || {
        let line = Line::new(but);
        let first = match before {
            Before::Nothing => vec![LoomWord::new(), LoomWord::new()],
            Before::AnEventNotTaken => {
                let kernel = &mut *line.kernel();
                (kernel.counter, kernel.readable[0]) = (1, true);
                vec![LoomWord::new()]
            }
        };
        let (comes, second) = (first.len() - 1, [LoomWord::new()]);
        let other = {
            let (line, second) = (line.clone(), second.clone());
            thread::spawn(move || waits(&line, 1, &second))
        };
        let device = {
            let (line, first, second) = (line.clone(), first.clone(), second.clone());
            thread::spawn(move || {
                first[..comes].iter().chain(&second).for_each(|one| line.complete(one, watched));
                line.end();
            })
        };
        let mut over = [waits(&line, 0, &first), 0];
        device.join().unwrap();
        over[1] = other.join().unwrap();
        // Who fell asleep as the device was done may have been woken by the other task since.
        let left = |task: usize, over: usize| &[&first[..], &second[..]][task][over..];
        while let Some(task) =
            (0..TASKS).find(|task| line.is_woken(*task) && !left(*task, over[*task]).is_empty())
        {
            over[task] += waits(&line, task, left(task, over[task]));
        }
        assert_eq!(over, [comes, 1], "a wake-up is lost");
    });
}

#[test]
fn tasks_of_two_runtimes_on_one_line_see_their_completions() {
    tasks(Before::Nothing, Watched::Runtimes, But::Nothing);
    tasks(Before::AnEventNotTaken, Watched::Runtimes, But::Nothing);
}

#[test]
fn tasks_of_two_runtimes_on_a_line_that_a_thread_watches_as_well_see_their_completions() {
    tasks(Before::Nothing, Watched::AndThread, But::Nothing);
    tasks(Before::AnEventNotTaken, Watched::AndThread, But::Nothing);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn a_taker_that_wakes_nobody_loses_the_others_wake_up() {
    tasks(Before::AnEventNotTaken, Watched::Runtimes, But::TakerWakesNobody);
}

#[test]
#[should_panic(expected = "a wake-up is lost")]
fn a_task_that_does_not_look_again_once_it_is_on_the_line_may_never_be_woken() {
    tasks(Before::AnEventNotTaken, Watched::Runtimes, But::NoSecondLook);
}
