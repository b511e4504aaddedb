//! A mapping that somebody else can take away, and a process that survives it.
//!
//! A doorbell in a device's BAR is mapped from a descriptor whose pages another can take away at any
//! time: the broker that revokes it, a reset of the device, its removal. The next store to it raises
//! SIGBUS, which ends a process that does not expect it. [`map_revocable`] makes such a mapping, and
//! installs, once per process, a SIGBUS handler that turns the fault into a word to whom it concerns:
//! it puts an anonymous page in the place of the mapping, so that the store (and all later ones)
//! succeed and reach nobody; sets the flag of the mapping's [`Watch`]; and signals its eventfd, so that
//! its owner looks at the flag. The data path does not change by an instruction.
//!
//! A fault does not say why the mapping was taken away, so it ends no queue. A client's thread, which
//! the eventfd wakes, waits for who knows: the broker, or the end of the connection (`client/link.rs`).
//!
//! # Other SIGBUS handlers
//!
//! A SIGBUS that is not a page fault in such a mapping is none of our business, and goes where it would
//! have gone without us:
//!
//! * to the handler that was installed **before** (Rust's own, for example), with the same arguments
//!   and the signals blocked that it wants blocked;
//! * without one, to the default action: the program ends by SIGBUS, and a core dump shows the faulting
//!   instruction, because it is executed again;
//! * an ignored SIGBUS stays ignored if a process sent it, and ends the program if it is a fault, which
//!   is what the kernel does.
//!
//! A handler that is installed **after** ours gets every SIGBUS first. If it calls the one before it, as
//! it should, nothing changes. If it does not, a lost doorbell is a SIGBUS like any other to it; this is
//! looked for at each new mapping and warned of, and not changed: two libraries that each insist on
//! being first end in a loop. Only where the default action was put back is our handler installed again.
//!
//! # What it does not do
//!
//! * It does not bring a mapping back. The kernel gives the pages of a device that was reset back to the
//!   same mapping; ours is an anonymous page from the first fault on. That loses nothing: a reset ends
//!   all queues, and a new claim brings a new mapping.
//! * It does not help where the handler itself cannot map a page (the process has as many mappings as it
//!   may have): the program then ends by SIGBUS.
//! * A process that blocks SIGBUS in a thread is ended by the kernel at the first such fault there.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use doorbell_queues::SharedMem;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use self::table::{Found, Place, Table};
use super::map::{Prefault, map_fd};
use super::{DmaError, Memfd};

mod table;

static TABLE: Table = Table::new();

/// What SIGBUS did before us; null for the default action. What it points at is never freed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Whom to tell that a mapping was taken away.
#[derive(Debug)]
pub struct Watch {
    /// Set at the first access to a page that was taken away, and never taken back.
    pub lost: Arc<AtomicBool>,
    /// Signalled after that: an eventfd, which should not block when it is full.
    pub event: OwnedFd,
}

impl Watch {
    /// Called by the signal handler: an atomic and one write(2).
    fn tell(&self) {
        // Release: pairs with the acquire of who looks. Set before the signal, so who is woken by that
        // finds it.
        self.lost.store(true, Ordering::Release);
        // A full counter is readable, so its reader wakes; any other failure leaves a queue to the
        // broker's word and its tasks to their time limits.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// A mapping in the table.
///
/// # Invariants
/// `place` is the entry of `_memory` and of `_watch`, and is freed before either.
struct Guarded {
    place: Place,
    _memory: SharedMem,
    _watch: Box<Watch>,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        TABLE.remove(self.place);
    }
}

/// As [`map_fd`], for a descriptor whose pages can be taken away: see the [module](self). Memory that
/// cannot shrink ([`Memfd::cannot_shrink`]) raises no SIGBUS and is mapped as it is: nothing is installed
/// for it.
///
/// # Errors
/// As [`map_fd`]; [`DmaError::Os`] if the handler cannot be installed.
pub fn map_revocable(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    watch: Watch,
) -> Result<SharedMem, DmaError> {
    if Memfd::cannot_shrink(fd) {
        return map_fd(fd, offset, len, Prefault::No);
    }
    guard(watch, || map_fd(fd, offset, len, Prefault::No))
}

/// Maps the first `len` bytes of a peer's file, which may shrink: see the [module](self). If the
/// descriptor is for reading only, so is the mapping: what is written there reaches nobody.
///
/// # Errors
/// As [`map_revocable`].
#[cfg(all(feature = "vfio-user", feature = "soft"))]
pub(crate) fn map_guest(
    fd: BorrowedFd<'_>,
    len: usize,
    read_only: bool,
    watch: Watch,
) -> Result<SharedMem, DmaError> {
    if read_only {
        return guard(watch, || super::map::map_private(fd, len));
    }
    map_revocable(fd, 0, len, watch)
}

/// Makes a mapping, and puts it into the table.
fn guard(
    watch: Watch,
    map: impl FnOnce() -> Result<SharedMem, DmaError>,
) -> Result<SharedMem, DmaError> {
    install()?;
    let memory = map()?;
    let len = memory.len();
    let Some(base) = NonNull::new(memory.as_ptr()) else {
        return Err(DmaError::BadLength { len, max: isize::MAX as usize });
    };
    let start = base.as_ptr() as usize;
    let watch = Box::new(watch);
    // The kernel maps whole pages.
    let end = start + len.next_multiple_of(super::map::PAGE);
    let place = TABLE.insert(start, end, ptr::from_ref(&*watch));
    let owner = Arc::new(Guarded { place, _memory: memory, _watch: watch });
    // SAFETY:
    // * the range is readable and writable while `owner._memory` lives; what the handler puts in its
    //   place is so too;
    // * it is aligned to a page, and no reference to it exists, as for `owner._memory`.
    Ok(unsafe { SharedMem::new(base, len, owner) })
}

/// Installs the handler if it is not there. Cheap if it is: one system call.
fn install() -> Result<(), DmaError> {
    static ONE: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let os = |what| DmaError::Os { what, source: std::io::Error::last_os_error() };
    let mut installed = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let now = current(None).ok_or_else(|| os("asking for the SIGBUS handler (sigaction)"))?;
    if now.sa_sigaction == ours() {
        return Ok(());
    }
    if *installed && now.sa_sigaction != libc::SIG_DFL {
        tracing::warn!(
            "another SIGBUS handler was installed after Doorbell's; unless it calls the one before it, \
             a doorbell that is revoked ends this program"
        );
        return Ok(());
    }
    // Before ours is installed: from then on it may be asked for at any time. Never freed, for a handler
    // may be reading it; it changes at most as often as others change the handler.
    PREVIOUS.store(Box::into_raw(Box::new(now)), Ordering::Release);
    let mut action = now;
    action.sa_sigaction = ours();
    // What the one before wants of the kernel is right for us too: it may be called by us. The alternate
    // stack is used where a thread has one.
    action.sa_flags =
        libc::SA_SIGINFO | libc::SA_ONSTACK | now.sa_flags & (libc::SA_RESTART | libc::SA_NODEFER);
    let replaced =
        current(Some(&action)).ok_or_else(|| os("installing a SIGBUS handler (sigaction)"))?;
    if replaced.sa_sigaction != now.sa_sigaction {
        // Somebody else was at it at the same moment.
        PREVIOUS.store(Box::into_raw(Box::new(replaced)), Ordering::Release);
    }
    *installed = true;
    Ok(())
}

/// Our handler, as `sigaction` has it.
fn ours() -> libc::sighandler_t {
    on_sigbus as extern "C" fn(_, _, _) as usize
}

/// What SIGBUS does, and what it shall do from now on. `None` if the kernel refuses.
fn current(new: Option<&libc::sigaction>) -> Option<libc::sigaction> {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY:
    // * `new` is null or a whole action, whose handler (ours, or the default) may run at any time;
    // * `old` is room for one.
    let done = unsafe { libc::sigaction(libc::SIGBUS, new, old.as_mut_ptr()) };
    // SAFETY: zeroes are a valid action, and so is what the kernel wrote.
    (done == 0).then(|| unsafe { old.assume_init() })
}

/// The handler. It does only what a signal handler may: loads, atomics, system calls.
extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid `info` to a handler with SA_SIGINFO.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // A fault on a page that its file does not have (any more). The numbers of other SIGBUS signals
    // mean other things: sent by a process, misaligned, a memory error.
    if code == libc::BUS_ADRERR
        && let Some(found) = TABLE.find(address)
        && replace(&found)
    {
        // SAFETY: this thread faulted in the mapping, so it holds the mapping and with it the watch
        // (`Guarded`'s invariant) until after this.
        unsafe { (*found.watch).tell() };
        return;
    }
    pass_on(signal, info, context);
}

/// Puts anonymous memory in the place of a mapping; false if the kernel refuses.
fn replace(found: &Found) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY:
    // * the range is a mapping of ours, which this thread holds, so nothing else can lie there now;
    // * it stays readable and writable, which is what `SharedMem` needs of it; its users expect any
    //   value in it; no reference to it exists;
    // * whoever unmaps it unmaps the range, whatever lies in it.
    let mapped =
        unsafe { mmap_anonymous(found.start as *mut _, found.end - found.start, prot, flags) };
    mapped.is_ok()
}

/// What would have happened without us.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: null, or an action that `install` leaked.
    let previous = unsafe { PREVIOUS.load(Ordering::Acquire).as_ref() };
    // SAFETY: as in `on_sigbus`.
    let sent = unsafe { (*info).si_code } <= 0;
    let (handler, flags) =
        previous.map_or((libc::SIG_DFL, 0), |action| (action.sa_sigaction, action.sa_flags));
    if handler == libc::SIG_IGN && sent {
        return;
    }
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return by_default(sent);
    }
    if flags & libc::SA_RESETHAND != 0 {
        PREVIOUS.store(ptr::null_mut(), Ordering::Release);
    }
    if flags & libc::SA_SIGINFO != 0 {
        type Action = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: an action with SA_SIGINFO has a handler of this type, which its owner installed for
        // exactly this signal; it gets what the kernel gave us, under the mask it asked for.
        let action: Action = unsafe { std::mem::transmute(handler) };
        action(signal, info, context);
    } else {
        // SAFETY: as above; an action without SA_SIGINFO has a handler of this type.
        let action: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
        action(signal);
    }
}

/// Ends the program by SIGBUS once the handler has returned.
fn by_default(sent: bool) {
    // SAFETY: zeroes are a valid action: the default one, with no flags and nothing blocked.
    let default = unsafe { std::mem::zeroed() };
    current(Some(&default));
    if sent {
        // It does not come again by itself as a fault does. It is blocked while the handler runs.
        // SAFETY: may be called in a handler.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}
