//! `doorbell status` and `doorbell revoke`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use doorbell::wire::{
    FunctionState, FunctionStatus, PollerStatus, ReclaimCause, RevokeTarget, SessionStatus,
    StatusReport,
};
use doorbell_bench::report::units::bytes;
use serde::Serialize;

use crate::cli::{Reset, Revoke, Status, Whose};
use crate::connect::{block_on, to_look};
use crate::{output, sockets};

/// One broker, or why it could not be asked.
#[derive(Debug, Serialize)]
struct Asked {
    socket: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<StatusReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs `doorbell status`.
pub(crate) fn run(args: &Status) -> Result<()> {
    let named = args.target.socket.is_some() || args.target.device.is_some();
    let sockets = if named { vec![sockets::find(&args.target)?] } else { sockets::all() };
    if sockets.is_empty() {
        // The same words as for every other command.
        sockets::find(&args.target)?;
    }
    let mut asked = Vec::new();
    for socket in sockets {
        match block_on(ask(&socket)).map(without_ourselves) {
            Ok(report) => asked.push(Asked { socket, report: Some(report), error: None }),
            Err(error) if named => return Err(error),
            Err(error) => {
                asked.push(Asked { socket, report: None, error: Some(output::one_line(&error)) });
            }
        }
    }
    if args.json {
        output::print_json(&asked)?;
    } else {
        let text: String = asked.iter().map(table).collect::<Vec<_>>().join("\n");
        output::print(text)?;
    }
    if asked.iter().all(|one| one.report.is_none()) {
        bail!("no broker answered; start one with `doorbell serve SPEC`");
    }
    Ok(())
}

/// This very command is a client as well, for as long as it looks.
fn without_ourselves(mut report: StatusReport) -> StatusReport {
    let pid = i32::try_from(std::process::id()).ok();
    report.sessions.retain(|session| Some(session.pid) != pid);
    report
}

/// What a broker holds.
pub(crate) async fn ask(socket: &Path) -> Result<StatusReport> {
    Ok(to_look(socket).await?.status().await?)
}

/// Runs `doorbell revoke`.
pub(crate) fn revoke(args: &Revoke) -> Result<()> {
    let socket = sockets::find(&args.target)?;
    let target = match args.whose {
        Whose { pid: Some(pid), .. } => RevokeTarget::Pid(pid),
        Whose { session: Some(session), .. } => RevokeTarget::Session(session),
        Whose { queue: Some(queue), .. } => RevokeTarget::Queue(queue),
        Whose { .. } => bail!("name whose grants: --pid, --session or --queue"),
    };
    let (queues, sessions) = block_on(async { Ok(to_look(&socket).await?.revoke(target).await?) })?;
    output::print(format!(
        "revoked {} of {}\n",
        plural(u64::from(queues), "queue"),
        plural(u64::from(sessions), "session")
    ))
}

/// Runs `doorbell reset`.
pub(crate) fn reset(args: &Reset) -> Result<()> {
    let socket = sockets::find(&args.target)?;
    let device = block_on(async {
        let client = to_look(&socket).await?;
        client.reset().await?;
        Ok(client.device().name.clone())
    })?;
    output::print(format!("reset {device}\n"))
}

/// `1 queue`, `2 queues`.
pub(crate) fn plural(number: u64, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{ending}")
}

fn table(asked: &Asked) -> String {
    let mut text = format!("{}\n", asked.socket.display());
    match &asked.report {
        Some(report) => describe(&mut text, report),
        None => push(&mut text, asked.error.as_deref().unwrap_or("it did not answer")),
    }
    text
}

fn push(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {}", line.trim_end());
}

fn describe(text: &mut String, report: &StatusReport) {
    let device = &report.device;
    let node = device.numa_node.map_or_else(String::new, |node| format!(", NUMA node {node}"));
    push(
        text,
        &format!(
            "{}: {:04x}:{:04x}, driver {}{node}; broker {} (pid {}, protocol {})",
            report.spec,
            device.vendor,
            device.device,
            device.driver,
            report.broker_version,
            report.broker_pid,
            report.protocol
        ),
    );
    let about = &device.about_bus;
    let about = if about.is_empty() { String::new() } else { format!(": {about}") };
    push(text, &format!("bus {}{about}", device.bus));
    // Those of virtual functions are not the device's.
    let on_device = report.sessions.iter().filter(|session| session.function.is_none());
    let used: usize = on_device.map(|session| session.queues.len()).sum();
    if device.queues == 0 {
        push(text, "it has no queues: clients ask its driver");
    } else {
        push(
            text,
            &format!(
                "{used} of {} queues in use, of up to {} entries",
                device.queues, device.max_entries
            ),
        );
    }
    if let Some(why) = &report.out_of_service {
        push(text, &format!("OUT OF SERVICE: {why}"));
    }
    if report.faults > 0 || report.resets > 0 {
        let last = report.last_fault.map_or_else(String::new, |fault| format!(" (last: {fault})"));
        push(
            text,
            &format!("refused DMA accesses: {}{last}; resets: {}", report.faults, report.resets),
        );
    }
    if report.quarantined_bytes > 0 || !report.quarantined_queues.is_empty() {
        let queues = &report.quarantined_queues;
        push(
            text,
            &format!(
                "quarantined: {} of memory, queues {queues:?}",
                bytes(report.quarantined_bytes)
            ),
        );
    }
    functions(text, report);
    sessions(text, report);
    reclaims(text, report);
}

/// One line for all virtual functions that are in use or free, and one for each that is lost.
fn functions(text: &mut String, report: &StatusReport) {
    let functions = &report.virtual_functions;
    if functions.is_empty() {
        return;
    }
    let given = |function: &&FunctionStatus| matches!(function.state, FunctionState::Given { .. });
    let (given, total) = (functions.iter().filter(given).count(), functions.len());
    push(text, &format!("{given} of {} in use", plural(total as u64, "virtual function")));
    for function in functions {
        if let FunctionState::Lost { why } = &function.state {
            push(text, &format!("virtual function {} IS OUT OF USE: {why}", function.index));
        }
    }
}

fn sessions(text: &mut String, report: &StatusReport) {
    if report.sessions.is_empty() {
        push(text, "no clients");
        return;
    }
    text.push('\n');
    let head = format!(
        "{:>7} {:>8} {:>6}  {:<16} {:>7} {:<12} {:>9} {:>8}",
        "session", "pid", "uid", "program", "queues", "tier", "bytes", "mappings"
    );
    push(text, &head);
    for session in &report.sessions {
        push(text, &session_row(session));
        if let Some(function) = &session.function {
            push(text, &format!("{:>15} alone on {function}", ""));
        }
        for queue in &session.queues {
            let ended = queue.ended.map_or_else(String::new, |cause| format!("  ended: {cause:?}"));
            push(
                text,
                &format!(
                    "{:>15} queue {:>3}  {} entries, {}{ended}",
                    "", queue.id, queue.entries, queue.tier
                ),
            );
        }
        for poller in &session.pollers {
            push(text, &poller_row(poller));
        }
        for arena in &session.arenas {
            push(
                text,
                &format!(
                    "{:>15} arena {:>3}  {} at IOVA {:#x}",
                    "",
                    arena.id,
                    bytes(arena.bytes),
                    arena.iova
                ),
            );
        }
    }
    if report.sessions_omitted > 0 {
        push(
            text,
            &format!("... and {}", plural(u64::from(report.sessions_omitted), "more session")),
        );
    }
}

/// A poller, as its client tells of it.
fn poller_row(poller: &PollerStatus) -> String {
    let about = &poller.about;
    let cpu = about.cpu.map_or_else(|| "not pinned".to_owned(), |cpu| format!("CPU {cpu}"));
    let node = about.node.map_or_else(String::new, |node| format!(", node {node}"));
    let memory = match (about.memory, about.node) {
        (None, Some(_)) => ", memory not bound",
        _ => "",
    };
    let work = poller.counters.map_or_else(
        || "counters cannot be read".to_owned(),
        |counters| {
            format!(
                "{}, {}; busy {} % of turns, asleep {} % of the time, {}",
                plural(counters.queues, "queue"),
                plural(counters.tasks, "task"),
                counters.busy_percent(),
                counters.asleep_percent(),
                plural(counters.sleeps, "sleep"),
            )
        },
    );
    let serves = if poller.queues.is_empty() {
        String::new()
    } else {
        format!("; serves {:?} here", poller.queues)
    };
    let trouble = &about.trouble;
    let trouble = if trouble.is_empty() { String::new() } else { format!("; {trouble}") };
    format!("{:>15} poller {}, {cpu}{node}{memory}: {work}{serves}{trouble}", "", about.name)
}

fn session_row(session: &SessionStatus) -> String {
    let held: u64 = session.arenas.iter().map(|arena| arena.bytes).sum();
    let tier = session.queues.iter().map(|queue| queue.tier).min();
    let tier = tier.map_or_else(|| "-".to_owned(), |tier| tier.to_string());
    let operator = if session.operator { " (operator)" } else { "" };
    let program: String = session.program.chars().take(16).collect();
    format!(
        "{:>7} {:>8} {:>6}  {program:<16} {:>7} {tier:<12} {:>9} {:>8}{operator}",
        session.session,
        session.pid,
        session.uid,
        format!("{}/{}", session.queues.len(), session.quota.queues),
        bytes(held),
        format!("{}/{}", session.arenas.len(), session.quota.mappings),
    )
}

/// The last things that were taken back from clients that did not give them back themselves.
fn reclaims(text: &mut String, report: &StatusReport) {
    let taken: Vec<_> = report
        .reclaims
        .iter()
        .filter(|reclaim| reclaim.cause != ReclaimCause::Closed || reclaim.quarantined > 0)
        .collect();
    if taken.is_empty() {
        return;
    }
    text.push('\n');
    push(text, "taken back:");
    for reclaim in taken {
        let quarantined = match reclaim.quarantined {
            0 => String::new(),
            number => format!("; {} quarantined", plural(u64::from(number), "mapping")),
        };
        push(
            text,
            &format!(
                "  session {} (pid {}), {}: {}, {}, {} in {:.1} ms{quarantined}",
                reclaim.session,
                reclaim.pid,
                cause(reclaim.cause),
                plural(u64::from(reclaim.queues), "queue"),
                plural(u64::from(reclaim.mappings), "mapping"),
                bytes(reclaim.bytes),
                reclaim.ms()
            ),
        );
    }
}

fn cause(cause: ReclaimCause) -> &'static str {
    match cause {
        ReclaimCause::Closed => "closed",
        ReclaimCause::Died => "died",
        ReclaimCause::Revoked => "revoked",
        ReclaimCause::Protocol => "broke the protocol",
        ReclaimCause::DeviceGone => "its device is gone",
        ReclaimCause::Shutdown => "the broker ended",
    }
}
