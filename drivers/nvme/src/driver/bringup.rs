//! Reset, enable and shutdown: the handshakes of CC and CSTS (base 2.0, 3.5.1 and 3.6.1).
//!
//! Every wait is bounded by what the controller says it may take (CAP.TO, CRTO), every look at CSTS
//! tells a controller that is gone (all ones) or has failed (CSTS.CFS) from one that is slow, and a
//! wait that gives up says what was awaited and what was read instead.

use std::sync::Arc;
use std::time::Duration;

use doorbell::bus::BusError;
use doorbell::deadline::Deadline;
use doorbell::driver::{DriverError, rt};

use super::error::broken;
use super::regs::Registers;
use crate::prp::PageSize;
use crate::spec::regs::{Cap, Cc, Csts, IOCQES, IOSQES, css, shn, shst};

/// How long between two looks at CSTS: it grows from the first to the last.
const LOOK_FIRST: Duration = Duration::from_micros(100);
const LOOK_LAST: Duration = Duration::from_millis(20);

/// What CAP says, checked once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) cap: Cap,
    pub(super) page: PageSize,
    css: u8,
    /// The worst case for CSTS.RDY to follow CC.EN.
    ready: Duration,
}

/// Reads the capabilities and chooses what this driver uses of them.
pub(super) fn limits(device: &Arc<str>, regs: &Registers) -> Result<Limits, DriverError> {
    let step = "reading the controller's capabilities (CAP)";
    let bad = |problem: String| broken(device, step, problem);
    // The doorbells of the admin queue and of one I/O queue pair, at the least stride.
    let least = Cap(0).cq_doorbell(1) + 4;
    if regs.size() < least {
        let size = regs.size();
        return Err(bad(format!(
            "BAR0 has {size:#x} bytes; registers and doorbells take {least:#x} at least"
        )));
    }
    let cap = match regs.cap() {
        Err(BusError::Gone { .. }) => {
            return Err(bad("it reads all ones: nothing answers behind BAR0".into()));
        }
        other => other?,
    };
    if cap.0 == 0 {
        return Err(bad(
            "it reads 0: a virtual function whose physical function has not brought it online, or \
             a controller that does not work"
                .into(),
        ));
    }
    let least = cap.cq_doorbell(1) + 4;
    if regs.size() < least {
        let (size, stride) = (regs.size(), 4u64 << cap.dstrd());
        return Err(bad(format!(
            "BAR0 has {size:#x} bytes; with doorbells every {stride} bytes {least:#x} are needed"
        )));
    }
    if cap.mqes() == 0 {
        return Err(bad(
            "queues of one entry (MQES is 0), which the specification rules out".into()
        ));
    }
    // Rings, lists and buffers are aligned to 4 KiB, here and in the clients.
    if cap.mpsmin() != 0 {
        let least = cap.mpsmin();
        return Err(bad(format!(
            "memory pages of 4096 << {least} bytes at least (CAP.MPSMIN); 4096 are supported"
        )));
    }
    let page = PageSize::KIB_4;
    let css = match cap.css() {
        sets if sets & 1 != 0 => css::NVM,
        sets if sets & 1 << 6 != 0 => css::ALL,
        sets => return Err(bad(format!("no NVM command set (CSS is {sets:#04x})"))),
    };
    let mut units = u32::from(cap.to());
    if cap.crms() & 1 != 0 {
        units = units.max(regs.ready_with_media()?.into());
    }
    // A controller that says 0 gets one unit: 0 would be no wait at all.
    let ready = Duration::from_millis(500) * units.max(1);
    Ok(Limits { cap, page, css, ready })
}

/// Waits until CSTS is as `wanted` says. `what` ends the sentence "waited for ...".
async fn await_status(
    device: &Arc<str>,
    regs: &Registers,
    deadline: Deadline,
    what: &'static str,
    fatal_is_error: bool,
    wanted: impl Fn(Csts) -> bool,
) -> Result<(), DriverError> {
    let mut pause = LOOK_FIRST;
    loop {
        // Before the look, so that a look after the last pause counts.
        let expired = deadline.expired();
        let csts = regs.csts()?;
        if wanted(csts) {
            return Ok(());
        }
        if csts.cfs() && fatal_is_error {
            let problem = format!("it reports a fatal error (CSTS.CFS, CSTS is {:#x})", csts.0);
            return Err(broken(device, what, problem));
        }
        if expired {
            let what = format!("device {device}: {what} (CSTS is {:#x})", csts.0);
            return Err(deadline.timed_out(what).into());
        }
        rt::sleep(pause.min(deadline.remaining())).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}

/// Disables the controller: a controller reset (base 2.0, 3.7.2). All of its queues are gone then.
/// `settle` first waits for a controller that is being enabled, as the specification wants it; not
/// for one that was waited for in vain already.
///
/// # Errors
/// `TimedOut` if CSTS.RDY does not fall, `Gone` if CSTS reads all ones.
pub(super) async fn disable(
    device: &Arc<str>,
    regs: &Registers,
    limits: &Limits,
    deadline: Option<Deadline>,
    settle: bool,
) -> Result<(), DriverError> {
    let cc = regs.cc()?;
    let csts = regs.csts()?;
    let bounded = |own: Duration| match deadline {
        Some(deadline) => Deadline::after(own.min(deadline.remaining())),
        None => Deadline::after(own),
    };
    if settle && cc.en() && !csts.rdy() && !csts.cfs() {
        // It is being enabled just now: EN must not be cleared before RDY followed it (base 2.0,
        // 3.1.3.5). If RDY does not come, clearing EN is all the same the only way out.
        let up = await_status(device, regs, bounded(limits.ready), ENABLING, false, |csts| {
            csts.rdy() || csts.cfs()
        });
        match up.await {
            Ok(()) | Err(DriverError::TimedOut(_)) => {}
            Err(error) => return Err(error),
        }
    }
    if cc.en() || cc.shn() != shn::NONE {
        regs.set_cc(cc.with_en(false).with_shn(shn::NONE))?;
    }
    await_status(device, regs, bounded(limits.ready), DISABLING, false, |csts| !csts.rdy()).await
}

const ENABLING: &str = "the controller to become ready (CSTS.RDY = 1 after CC.EN = 1)";
const DISABLING: &str = "the controller to stop (CSTS.RDY = 0 after CC.EN = 0)";
const SHUTTING_DOWN: &str = "the controller to shut down (CSTS.SHST = 10b after CC.SHN = 01b)";

/// Enables a disabled controller whose admin queue is set (base 2.0, 3.5.1).
///
/// # Errors
/// `TimedOut` if CSTS.RDY does not rise, an error that says so if CSTS.CFS does.
pub(super) async fn enable(
    device: &Arc<str>,
    regs: &Registers,
    limits: &Limits,
    deadline: Option<Deadline>,
) -> Result<(), DriverError> {
    let cc = Cc(0)
        .with_css(limits.css)
        .with_mps(limits.cap.mpsmin())
        .with_iosqes(IOSQES)
        .with_iocqes(IOCQES);
    regs.set_cc(cc.with_en(true))?;
    let own = deadline.map_or(limits.ready, |d| limits.ready.min(d.remaining()));
    await_status(device, regs, Deadline::after(own), ENABLING, true, Csts::rdy).await
}

/// Shuts an enabled controller down in the orderly way (base 2.0, 3.6.1).
///
/// # Errors
/// `TimedOut` if CSTS.SHST does not say that it is complete.
pub(super) async fn shut_down(
    device: &Arc<str>,
    regs: &Registers,
    deadline: Deadline,
) -> Result<(), DriverError> {
    let cc = regs.cc()?;
    if !cc.en() {
        return Ok(());
    }
    regs.set_cc(cc.with_shn(shn::NORMAL))?;
    await_status(device, regs, deadline, SHUTTING_DOWN, true, |csts| csts.shst() == shst::COMPLETE)
        .await
}

/// True if the controller is enabled, ready and not failed.
///
/// # Errors
/// `Gone` if CSTS reads all ones; an error that says so if it reports a fatal status.
pub(super) fn check_alive(device: &Arc<str>, regs: &Registers) -> Result<(), DriverError> {
    let csts = regs.csts()?;
    if csts.cfs() {
        let problem = format!("it reports a fatal error (CSTS.CFS, CSTS is {:#x})", csts.0);
        return Err(broken(device, "looking at the controller's status", problem));
    }
    Ok(())
}
