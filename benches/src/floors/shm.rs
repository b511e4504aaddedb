//! The shared-memory ping-pong: both sides of it, over any shared memory.
//!
//! It is what a queue pair does at depth 1 and nothing else: no slots, no tags to check, no
//! wake-up, no translation of addresses. The entry's number comes back in the completion, so that
//! each round trip is known to be the right one.

use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use doorbell_queues::{Cells, SharedMem, Word, Word32};

use super::{BLOCK, Floor, WORKING_SET};
use crate::clock::Laps;
use crate::page::Page;
use crate::series::Series;

/// Entries of each ring.
const ENTRIES: usize = 64;

// Words of the first page, each in a cache line of its own and no two in neighbouring lines.
const DOORBELL: usize = 0;
const STOP: usize = 512;
const READY: usize = 1024;
// A page each for the rings and the client's buffer, then the device's data.
const SUBMISSION: usize = 4096;
const COMPLETION: usize = 2 * 4096;
const BUFFER: usize = 3 * 4096;
const DATA: usize = 4 * 4096;

/// Bytes of shared memory that the two sides need.
pub const SIZE: usize = DATA + WORKING_SET * BLOCK;

/// The longest that one side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks in vain between two checks of anything else.
const LOOKS_PER_CHECK: u32 = 1 << 12;

/// A submission entry.
type Entry = [u64; 8];
/// A completion: its last 32-bit word holds the entry's number and, in bit 16, the phase.
type Completion = [u32; 4];
/// Byte offset of that word.
const PHASE_WORD: usize = 12;
const PHASE: u32 = 1 << 16;

/// The client's side.
#[derive(Debug)]
pub struct Client {
    memory: SharedMem,
    submission: Cells<Entry>,
    completion: Cells<Completion>,
    doorbell: Word32,
    position: Position,
    page: Box<Page>,
    moves_data: bool,
    yields: bool,
}

/// Where in the rings a side is: the same number on both, for a depth of 1 lets neither run ahead.
#[derive(Debug, Clone, Copy)]
struct Position {
    index: usize,
    phase: u32,
}

impl Position {
    const START: Self = Self { index: 0, phase: PHASE };

    #[inline]
    fn advance(&mut self) {
        self.index += 1;
        if self.index == ENTRIES {
            *self = Self { index: 0, phase: self.phase ^ PHASE };
        }
    }
}

impl Client {
    /// The client over zeroed memory of [`SIZE`] bytes. `yields`: both sides share one core, so
    /// that whoever waits must give it up.
    ///
    /// # Errors
    /// If the memory is too small.
    pub fn new(memory: &SharedMem, floor: Floor, yields: bool) -> Result<Self> {
        Ok(Self {
            memory: memory.clone(),
            submission: memory.cells(SUBMISSION, ENTRIES).context("mapping the ring")?,
            completion: memory.cells(COMPLETION, ENTRIES).context("mapping the ring")?,
            doorbell: memory.word32(DOORBELL).context("mapping the doorbell")?,
            position: Position::START,
            page: Page::new(),
            moves_data: floor == Floor::Shm4k,
            yields,
        })
    }

    /// Waits until the other side has said that it looks at the doorbell.
    ///
    /// # Errors
    /// If it does not within seconds.
    pub fn wait_for_device(&self) -> Result<()> {
        let begin = Instant::now();
        while self.memory.load_u32(READY, Ordering::Acquire)? == 0 {
            if begin.elapsed() > PATIENCE {
                bail!("the other side of the ping-pong did not start within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Goes back and forth for about `time`.
    ///
    /// # Errors
    /// If the other side stops answering, or answers wrongly.
    pub fn round_trips(&mut self, time: Duration) -> Result<Series> {
        let mut series = Series::new()?;
        let mut laps = Laps::start();
        let begin = laps.began();
        let mut trips = 0;
        while laps.began().duration_since(begin) < time {
            self.round_trip()?;
            series.record(laps.lap());
            trips += 1;
        }
        let bytes = if self.moves_data { trips * BLOCK as u64 } else { 0 };
        series.extend(laps.began().duration_since(begin), bytes);
        Ok(series)
    }

    #[inline]
    fn round_trip(&mut self) -> Result<()> {
        let Position { index, phase } = self.position;
        let number = index as u64;
        self.submission.write(index, &[number, !number, 2, 3, 4, 5, 6, 7]);
        let tail = if index + 1 == ENTRIES { 0 } else { index + 1 };
        // Release: the entry is visible before the doorbell.
        self.doorbell.store(tail as u32, Ordering::Release);
        let mut wait = Wait::begin(self.yields);
        // Acquire: what the device wrote before the completion is visible after it.
        while self.completion.load_u32(index, PHASE_WORD, Ordering::Acquire) & PHASE != phase {
            if wait.check_is_due() {
                wait.check("the other side of the ping-pong does not answer")?;
            }
        }
        let completion = self.completion.read(index);
        if completion[3] & (PHASE - 1) != index as u32 {
            bail!("the ping-pong answered {:#x} to {index:#x}", completion[3]);
        }
        if self.moves_data {
            self.memory.copy_out(BUFFER, self.page.bytes_mut())?;
            black_box(self.page.bytes());
        }
        self.position.advance();
        Ok(())
    }

    /// Tells the other side to end.
    pub fn stop(&self) {
        // The word lies inside: `new` has mapped more than that.
        let _ = self.memory.store_u32(STOP, 1, Ordering::Release);
    }
}

/// A wait that spins, and reads the clock only now and then.
struct Wait {
    looks: u32,
    since: Option<Instant>,
    yields: bool,
}

impl Wait {
    #[inline]
    fn begin(yields: bool) -> Self {
        Self { looks: 0, since: None, yields }
    }

    /// Called after each look in vain; true when it is time to look at anything else.
    #[inline]
    fn check_is_due(&mut self) -> bool {
        self.looks = self.looks.wrapping_add(1);
        if self.yields {
            yield_now();
        }
        self.looks.is_multiple_of(LOOKS_PER_CHECK)
    }

    #[cold]
    fn check(&mut self, problem: &str) -> Result<()> {
        if self.since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            bail!("{problem} (waited {PATIENCE:?})");
        }
        Ok(())
    }
}

/// The device's side: answers until it is told to stop.
///
/// # Errors
/// If the memory is too small, or nothing happens for seconds.
pub fn serve(memory: &SharedMem, floor: Floor, yields: bool) -> Result<()> {
    let submission: Cells<Entry> = memory.cells(SUBMISSION, ENTRIES).context("mapping the ring")?;
    let low: Cells<u64> = memory.cells(COMPLETION, 2 * ENTRIES).context("mapping the ring")?;
    let high = (0..ENTRIES)
        .map(|index| memory.word32(COMPLETION + index * size_of::<Completion>() + PHASE_WORD))
        .collect::<Result<Vec<_>, _>>()
        .context("mapping the ring")?;
    let doorbell = memory.word32(DOORBELL).context("mapping the doorbell")?;
    let stop = memory.word32(STOP).context("mapping the stop word")?;
    for block in 0..WORKING_SET {
        memory.fill(DATA + block * BLOCK, BLOCK, block as u8)?;
    }
    memory.store_u32(READY, 1, Ordering::Release)?;
    let mut position = Position::START;
    let mut block = 0;
    while await_doorbell(&doorbell, &stop, position.index as u32, yields)? {
        let entry = submission.read(position.index);
        if floor == Floor::Shm4k {
            memory.copy_from(BUFFER, memory, DATA + block * BLOCK, BLOCK)?;
            block = (block + 1) % WORKING_SET;
        }
        low.write(2 * position.index, &black_box(entry)[1]);
        let number = entry[0] as u32 & (PHASE - 1);
        // Release: data and the first half of the completion are visible before the phase.
        high[position.index].store(number | position.phase, Ordering::Release);
        position.advance();
    }
    Ok(())
}

/// Waits for a doorbell that differs from `head`; false if told to stop.
#[inline]
fn await_doorbell(doorbell: &Word32, stop: &Word32, head: u32, yields: bool) -> Result<bool> {
    let mut wait = Wait::begin(yields);
    // Acquire: the entry is read after the doorbell that covers it.
    while doorbell.load(Ordering::Acquire) == head {
        if wait.check_is_due() {
            if stop.load(Ordering::Acquire) != 0 {
                return Ok(false);
            }
            wait.check("nobody rings the doorbell of the ping-pong")?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between_threads(floor: Floor) -> Series {
        let memory = SharedMem::zeroed(SIZE);
        let mut client = Client::new(&memory, floor, true).unwrap();
        std::thread::scope(|scope| {
            let device = scope.spawn(|| serve(&memory, floor, true));
            client.wait_for_device().unwrap();
            let series = client.round_trips(Duration::from_millis(50)).unwrap();
            client.stop();
            device.join().unwrap().unwrap();
            series
        })
    }

    #[test]
    fn it_goes_round_the_rings() {
        let series = between_threads(Floor::Shm);
        assert!(series.operations() > 2 * ENTRIES as u64, "{}", series.operations());
        assert_eq!(series.bytes(), 0);
    }

    #[test]
    fn data_arrives_with_its_completion() {
        let memory = SharedMem::zeroed(SIZE);
        let mut client = Client::new(&memory, Floor::Shm4k, true).unwrap();
        std::thread::scope(|scope| {
            let device = scope.spawn(|| serve(&memory, Floor::Shm4k, true));
            client.wait_for_device().unwrap();
            for trip in 0..2 * WORKING_SET {
                client.round_trip().unwrap();
                assert!(client.page.bytes().iter().all(|byte| *byte == trip as u8), "trip {trip}");
            }
            client.stop();
            device.join().unwrap().unwrap();
        });
    }

    #[test]
    fn bytes_are_counted() {
        let series = between_threads(Floor::Shm4k);
        assert_eq!(series.bytes(), series.operations() * BLOCK as u64);
    }

    #[test]
    fn memory_that_is_too_small_is_an_error() {
        let memory = SharedMem::zeroed(4096);
        assert!(Client::new(&memory, Floor::Shm, false).is_err());
        assert!(serve(&memory, Floor::Shm, false).is_err());
    }
}
