//! The plan of QEMU's `edu` device, and what its client processes do.

use std::path::Path;

use anyhow::{Result, ensure};
use doorbell::client::{Client, ClientError};
use doorbell_edu::{BUFFER, Edu, EduAdmin, EduError, EduReply, MOST_FACTORIAL};
use serde::{Deserialize, Serialize};

use crate::common;
use crate::dice::Dice;
use crate::plan::{Check, Outcome};
use crate::rig::Rig;
use crate::role::{Said, Work, say};

/// The plan.
pub const CHECKS: &[Check] = &[
    Check {
        name: "bring-up",
        what: "the broker serves the device, which says what it is",
        run: bring_up,
    },
    Check {
        name: "factorials",
        what: "every factorial that fits, each by an interrupt",
        run: factorials,
    },
    Check { name: "dma", what: "random data to and from the buffer, at random places", run: dma },
    Check { name: "refusals", what: "what cannot be is a typed refusal", run: refusals },
    Check {
        name: "clients",
        what: "several client processes, each with a part of the buffer",
        run: clients,
    },
    Check {
        name: "killed",
        what: "clients killed at random points leave nothing behind",
        run: |rig| common::killed(rig, &busy(0), &busy(1), 4),
    },
    Check {
        name: "revoked",
        what: "a revoked client gets a typed error, its neighbour does not notice",
        // It has no queue that could end with a reason: a request is refused, or the connection is over.
        run: |rig| common::revoked(rig, &busy(0), &busy(1), &["revoked", "broker_gone"]),
    },
    Check {
        name: "reset",
        what: "an operator's reset comes between two requests, and the next ones work",
        run: |rig| common::reset(rig, &busy(0), "", &part(0, 3)),
    },
    Check {
        name: "restarted",
        what: "a broker that ends or is killed, and the next one",
        run: |rig| common::restarted(rig, &busy(0), &part(0, 3)),
    },
    Check { name: "released", what: "nothing is left behind", run: common::released },
];

/// Bytes of one client's part of the buffer.
const PART: usize = 1000;

fn load(number: usize, rounds: u64) -> Load {
    Load { offset: number * PART, len: PART, seed: number as u64 + 1, rounds }
}

fn part(number: usize, rounds: u64) -> Work {
    Work::EduVerify(load(number, rounds))
}

fn busy(number: usize) -> Work {
    Work::EduLoad(load(number, 0))
}

fn bring_up(rig: &mut Rig) -> Result<Outcome> {
    common::bring_up(rig, "edu")?;
    rig.block_on(async {
        let edu = Edu::connect(&rig.client(0).await?).await?;
        ensure!(edu.version().0 >= 1, "version {:?}", edu.version());
        Ok(Outcome::Passed)
    })
}

fn factorials(rig: &mut Rig) -> Result<Outcome> {
    rig.block_on(async {
        let edu = Edu::connect(&rig.client(0).await?).await?;
        let mut expected = 1_u32;
        for number in 0..=MOST_FACTORIAL {
            expected *= number.max(1);
            let computed = edu.factorial(number).await?;
            ensure!(computed == expected, "{number}! is {expected}, not {computed}");
        }
        Ok(Outcome::Passed)
    })
}

fn dma(rig: &mut Rig) -> Result<Outcome> {
    let mut dice = Dice::new(rig.dice.roll());
    rig.block_on(async {
        let edu = Edu::connect(&rig.client(0).await?).await?;
        let mut copy = dice.bytes(BUFFER);
        edu.write(0, &copy).await?;
        for round in 0..16 {
            let offset = dice.below(BUFFER as u64) as usize;
            let len = 1 + dice.below((BUFFER - offset) as u64) as usize;
            let data = dice.bytes(len);
            edu.write(offset, &data).await?;
            copy[offset..offset + len].copy_from_slice(&data);
            let from = dice.below(BUFFER as u64) as usize;
            let len = 1 + dice.below((BUFFER - from) as u64) as usize;
            let read = edu.read(from, len).await?;
            ensure!(read == copy[from..from + len], "round {round}: {len} bytes at {from} differ");
        }
        ensure!(edu.read(0, BUFFER).await? == copy, "the buffer as a whole differs");
        Ok(Outcome::Passed)
    })
}

fn refusals(rig: &mut Rig) -> Result<Outcome> {
    common::refusals(rig)?;
    rig.block_on(async {
        let client = rig.client(0).await?;
        for operation in [
            EduAdmin::Factorial(MOST_FACTORIAL + 1),
            EduAdmin::Factorial(u32::MAX),
            EduAdmin::Read { offset: 0, len: 0 },
            EduAdmin::Read { offset: 1, len: BUFFER as u16 },
            EduAdmin::Write { offset: u16::MAX, data: vec![0; 2] },
        ] {
            let answer = client.admin::<_, EduReply>(&operation).await;
            let refused = matches!(answer, Err(ClientError::Refused { .. }));
            ensure!(refused, "{operation:?} was not refused: {answer:?}");
        }
        let edu = Edu::connect(&client).await?;
        let outside = edu.read(BUFFER, 1).await;
        ensure!(matches!(outside, Err(EduError::Range { .. })), "outside of it: {outside:?}");
        ensure!(edu.factorial(3).await? == 6, "3! is not 6 after the refusals");
        Ok(Outcome::Passed)
    })
}

fn clients(rig: &mut Rig) -> Result<Outcome> {
    let mut clients =
        (0..4).map(|number| rig.start(part(number, 4))).collect::<Result<Vec<_>>>()?;
    clients.iter_mut().try_for_each(crate::role::RoleProcess::done)?;
    Ok(Outcome::Passed)
}

/// What a client process does with its part of the buffer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// The part's first byte.
    pub offset: usize,
    /// Its bytes.
    pub len: usize,
    /// Of the data.
    pub seed: u64,
    /// How often it is written and read back, if there is an end to it.
    pub rounds: u64,
}

/// The client process: until it is done, killed, or its session ends.
///
/// # Errors
/// Data that differs, or an error that no ended session explains.
pub async fn play(socket: &Path, load: &Load, rounds: Option<u64>) -> Result<()> {
    let client = Client::builder().arena_bytes(0).connect(socket).await?;
    let edu = Edu::connect(&client).await?;
    let mut dice = Dice::new(load.seed);
    say(&Said::Started)?;
    let mut round = 0;
    while rounds.is_none_or(|rounds| round < rounds) {
        let data = dice.bytes(load.len);
        let read = async {
            edu.write(load.offset, &data).await?;
            edu.read(load.offset, load.len).await
        };
        match read.await {
            Ok(read) => ensure!(read == data, "round {round}: the data differs"),
            Err(EduError::Client(error)) => return ended(&error),
            Err(error) => return Err(error.into()),
        }
        round += 1;
        say(&Said::Round(round))?;
    }
    say(&Said::Done)
}

fn ended(error: &ClientError) -> Result<()> {
    use doorbell::wire::Refusal;
    let why = match error {
        ClientError::BrokerGone { .. } => "broker_gone",
        ClientError::Refused { refusal: Refusal::ShuttingDown, .. } => "broker_gone",
        ClientError::Refused { refusal: Refusal::Revoked { .. }, .. } => "revoked",
        ClientError::Refused { refusal: Refusal::OutOfService { .. }, .. } => "device_gone",
        _ => "other",
    };
    say(&Said::Ended { why: why.to_owned(), error: error.to_string() })
}
