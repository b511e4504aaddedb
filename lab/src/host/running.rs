//! A guest that runs: started, talked to, and gone when its value is dropped.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{LabError, Result, failed};
use crate::host::kernel::Kernel;
use crate::host::machine::Machine;
use crate::host::process;
use crate::host::qemu::Qemu;
use crate::host::qmp::{self, Qmp};
use crate::host::scratch::Scratch;
use crate::host::served::{Served, Server};
use crate::protocol::{self, FromGuest, Request, ToGuest};

/// From start to user space. An emulated one needs seconds; on a host that does much else, many.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// A guest that is run by the processor itself is up in a second or two, or hangs.
const KVM_LIMIT: Duration = Duration::from_secs(30);
/// From the last message to QEMU's end.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How many lines of the console an error shows.
const CONSOLE_LINES: usize = 12;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Emulation: works everywhere.
    Tcg,
    /// The processor, through `/dev/kvm`.
    Kvm,
}

/// What a boot needs beside the machine.
#[derive(Debug)]
pub struct Boot<'a> {
    /// The emulator.
    pub qemu: &'a Qemu,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// The first program in the guest, by its path on the host.
    pub init: &'a Path,
    /// Where the console's text goes.
    pub console: &'a Path,
}

/// A guest. It is killed when this is dropped.
#[derive(Debug)]
pub struct Guest {
    child: RefCell<Child>,
    port: UnixStream,
    qmp: Qmp,
    /// Bytes of a line that has not ended yet.
    partial: Vec<u8>,
    console: PathBuf,
    /// The guest's `uname -r`.
    pub release: String,
    servers: Vec<Server>,
    /// What QEMU has to say.
    complaints: PathBuf,
    folder: Scratch,
}

impl Guest {
    /// Makes the disks' images, starts the machine, and waits until its user space says that it is alive.
    ///
    /// # Errors
    /// If anything of this fails; the message ends with the last lines of the console.
    pub fn boot(machine: &Machine, boot: &Boot<'_>) -> Result<Self> {
        let folder = Scratch::new("doorbell-lab-", None)?;
        machine.make_images(folder.path())?;
        let (port, monitor) = (folder.path().join("port"), folder.path().join("monitor"));
        let (port_listener, monitor_listener) = (qmp::listen(&port)?, qmp::listen(&monitor)?);
        if let Some(parent) = boot.console.parent() {
            fs::create_dir_all(parent)
                .map_err(|error| LabError::file("make the folder", parent, error))?;
        }
        let servers = machine.servers().iter().map(|served| {
            let log = boot.console.with_extension(format!("{}.log", served.name));
            Server::start(&boot.init.with_file_name("doorbell"), *served, folder.path(), &log)
        });
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let mut command = boot.qemu.command();
        command.args(machine.arguments(folder.path()));
        common_arguments(&mut command, machine, boot, &port, &monitor);
        let complaints = folder.path().join("qemu.log");
        let log = File::create(&complaints)
            .map_err(|error| LabError::file("write", &complaints, error))?;
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        let child = RefCell::new(
            child.map_err(|error| LabError::Failed(format!("cannot start QEMU: {error}")))?,
        );
        let limit = match boot.accelerator {
            Accelerator::Tcg => BOOT_LIMIT,
            Accelerator::Kvm => KVM_LIMIT,
        };
        let connect = || -> Result<(UnixStream, Qmp)> {
            let alive = || matches!(child.borrow_mut().try_wait(), Ok(None));
            let port = qmp::accept(&port_listener, "the guest's port", limit, alive)?;
            Ok((port, Qmp::accept(&monitor_listener, alive)?))
        };
        let (port, qmp) = match connect() {
            Ok(both) => both,
            Err(error) => {
                process::end(&mut child.borrow_mut());
                let said = fs::read_to_string(&complaints).unwrap_or_default();
                let said = said.lines().next().unwrap_or("QEMU says nothing");
                return failed(format!("machine {} does not start: {error}: {said}", machine.name));
            }
        };
        let mut guest = Self {
            child,
            port,
            qmp,
            partial: Vec::new(),
            console: boot.console.to_owned(),
            release: String::new(),
            servers,
            complaints,
            folder,
        };
        match guest.next(limit)? {
            Some(FromGuest::Alive(release)) => guest.release = release,
            other => {
                return failed(guest.about(&format!("the guest's first message is {other:?}")));
            }
        }
        Ok(guest)
    }

    /// The next message; `None` once the guest has closed its port, that is, QEMU has ended.
    ///
    /// # Errors
    /// If nothing comes within `limit`, or what comes makes no sense.
    pub fn next(&mut self, limit: Duration) -> Result<Option<FromGuest>> {
        let begin = Instant::now();
        loop {
            if let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                let message = serde_json::from_slice(&line);
                return message.map(Some).map_err(|error| {
                    let line = String::from_utf8_lossy(&line);
                    LabError::Failed(self.about(&format!("the guest says {line:?} ({error})")))
                });
            }
            if self.partial.len() > protocol::MAX_LINE {
                return failed(self.about("the guest sends a line without end"));
            }
            let left = limit.saturating_sub(begin.elapsed());
            if left.is_zero() {
                let waited = limit.as_secs();
                return failed(self.about(&format!("the guest was silent for {waited} s")));
            }
            let mut bytes = [0; 4096];
            let port =
                |error: std::io::Error| LabError::Failed(format!("the guest's port: {error}"));
            self.port.set_read_timeout(Some(left)).map_err(port)?;
            match self.port.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(n) => self.partial.extend_from_slice(bytes.get(..n).unwrap_or_default()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(port(error)),
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the guest is gone.
    pub fn send(&mut self, message: &ToGuest) -> Result<()> {
        let line = protocol::line(message).map_err(|error| LabError::Failed(error.to_string()))?;
        let sent = self.port.write_all(&line);
        sent.map_err(|error| LabError::Failed(format!("the guest's port: {error}")))
    }

    /// Does what the guest asks for, and answers it.
    ///
    /// # Errors
    /// If the answer cannot be sent; a refusal by QEMU is an answer.
    pub fn serve(&mut self, request: &Request) -> Result<()> {
        let done = match request {
            Request::Unplug(id) => self.qmp.execute("device_del", &json!({ "id": id })),
            Request::Plug(id) => self.plug(id),
            Request::Logged(text, least) => self.logged(text, *least),
        };
        self.send(&ToGuest::Done(done.map(|_| ()).map_err(|error| error.to_string())))
    }

    /// Fills a slot again. The guest lets go of a device before QEMU does, so that is waited for.
    fn plug(&mut self, id: &str) -> Result<serde_json::Value> {
        let begin = Instant::now();
        let folder = json!({ "path": "/machine/peripheral" });
        while self.qmp.execute("qom-list", &folder)?.to_string().contains(&format!("\"{id}\"")) {
            if begin.elapsed() >= END_LIMIT {
                return failed(format!("QEMU still has the device {id} that was unplugged"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let device = json!({ "driver": "nvme", "id": id, "serial": id, "drive": format!("{id}-drive"),
                             "bus": format!("{id}-port") });
        // It lets go of the disk a moment after the device, and tells nobody.
        loop {
            match self.qmp.execute("device_add", &device) {
                Err(error)
                    if error.to_string().contains("Permission conflict")
                        && begin.elapsed() < END_LIMIT =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                answer => return answer,
            }
        }
    }

    /// Whether the servers have logged this so many times.
    fn logged(&self, text: &str, least: usize) -> Result<serde_json::Value> {
        let lines = self.servers.iter().map(|server| server.logged(text)).sum::<usize>();
        if lines < least {
            return failed(format!("servers have logged {text:?} {lines} times, not {least}"));
        }
        Ok(json!({}))
    }

    /// The first refusal of a DMA map by a device server: QEMU prints it and goes on, and the guest then reaches other
    /// memory than it thinks.
    pub(crate) fn refused_map(&self) -> Option<String> {
        let said = fs::read(&self.complaints).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        said.lines().find(|line| line.contains("dma_map(")).map(str::to_owned)
    }

    /// Has QEMU end when the guest reboots, from now on.
    ///
    /// # Errors
    /// If QEMU refuses.
    pub(crate) fn no_more_boots(&mut self) -> Result<()> {
        self.qmp.execute("set-action", &json!({ "reboot": "shutdown" })).map(|_| ())
    }

    /// The monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Ends the machine of a guest that has nothing left to do, and hands over the folder with its disks' images.
    ///
    /// The guest is not asked to shut down: some kernels never finish that with the devices that they were given.
    ///
    /// # Errors
    /// If QEMU does not end in time.
    pub fn finish(mut self) -> Result<Images> {
        // A guest that was faster has taken QEMU's monitor with it; what counts is the end.
        let _ = self.qmp.execute("quit", &json!({}));
        let ended = process::wait(&mut self.child.borrow_mut(), END_LIMIT)?;
        if ended.is_none() {
            return failed(self.about("QEMU does not end"));
        }
        if let Some(refused) = self.refused_map() {
            return failed(format!("machine {}: {refused}", self.console.display()));
        }
        let servers = std::mem::take(&mut self.servers).into_iter().map(Server::stop).collect();
        Ok(Images { guest: self, servers })
    }

    /// A message with the console's last lines and where the rest is.
    #[must_use]
    pub fn about(&self, what: &str) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> =
            text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let tail = lines.get(lines.len().saturating_sub(CONSOLE_LINES)..).unwrap_or_default();
        eprintln!("  the guest's console ends with:");
        for line in tail {
            eprintln!("    {line}");
        }
        format!("{what}; the whole console is in {}", self.console.display())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        process::end(&mut self.child.borrow_mut());
    }
}

/// The disks of a guest that has ended.
#[derive(Debug)]
pub struct Images {
    guest: Guest,
    /// How the servers of devices have ended.
    pub(crate) servers: Vec<Result<String>>,
}

impl Images {
    /// A disk's image.
    #[must_use]
    pub fn path(&self, disk: &str) -> PathBuf {
        Machine::image(self.guest.folder.path(), disk)
    }

    /// The image of a namespace of a device that was served.
    #[must_use]
    pub fn served(&self, image: &str) -> PathBuf {
        Served::image(self.guest.folder.path(), image)
    }
}

/// What every guest of the lab has: a console, the port, the monitor, and the host's files as its root.
fn common_arguments(
    command: &mut Command,
    machine: &Machine,
    boot: &Boot<'_>,
    port: &Path,
    monitor: &Path,
) {
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    match boot.accelerator {
        Accelerator::Tcg => command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
        Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
    };
    let value = |prefix: &str, path: &Path| {
        format!("{prefix}{}", path.display().to_string().replace(',', ",,"))
    };
    command.arg("-serial").arg(value("file:", boot.console));
    command.arg("-serial").arg(value("unix:", port));
    command.arg("-qmp").arg(value("unix:", monitor));
    command.args([
        "-fsdev",
        "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device",
        "virtio-9p-pci,fsdev=root,mount_tag=rootfs,bus=pcie.0,addr=1e.0",
    ]);
    command.arg("-kernel").arg(&boot.kernel.image);
    let mut line = machine.command_line();
    match &boot.kernel.initramfs {
        // The first program is then the one in the initramfs; it starts the one on the host's file system.
        Some(initramfs) => {
            command.arg("-initrd").arg(initramfs);
            line.push_str(&format!(" lab.init={}", boot.init.display()));
        }
        None => {
            line.push_str(
                " root=rootfs rootfstype=9p rootflags=trans=virtio,version=9p2000.L,cache=loose ro",
            );
            line.push_str(&format!(" init={}", boot.init.display()));
        }
    }
    command.arg("-append").arg(line);
}
