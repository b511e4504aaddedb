//! The floors between two real processes: this program and itself again. It has a `main` of its own
//! because it must be able to become the other side. Nothing is asserted about time.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a test program")]

use std::time::Duration;

use doorbell_bench::floors::peer;
use doorbell_bench::{Floor, Floors, Placement, cores};

fn main() {
    if let Some(outcome) = peer::run_if_asked() {
        outcome.expect("the other side of a floor");
        return;
    }
    // What test runners ask of a test program (`cargo test` and nextest): a list, or a run.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |word: &str| arguments.iter().any(|argument| argument == word);
    if asked("--list") {
        if !asked("--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    measure();
    println!("test {NAME} ... ok\n\ntest result: ok. 1 passed; 0 failed");
}

const NAME: &str = "two_processes_exchange_on_every_floor";

fn measure() {
    let placement = Placement::choose().expect("which cores there are");
    if let Some(cores) = placement {
        cores::pin_to(cores.client).expect("pinning to the first core");
    }
    let mut floors = Floors::new().expect("an empty histogram");
    for _ in 0..3 {
        floors.add_round(placement, Duration::from_millis(100)).expect("a round");
    }
    for (floor, series) in
        [(Floor::Shm, &floors.shm), (Floor::Shm4k, &floors.shm_4k), (Floor::Uds, &floors.uds)]
    {
        println!("{:<32} {:?}", floor.label(), series.latency());
        assert!(series.operations() > 0, "{}", floor.label());
        assert_eq!(series.bytes() > 0, floor == Floor::Shm4k);
    }
}
