//! Software devices that `doorbell export` serves to a machine, over vfio-user.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::error::{LabError, Result, failed};
use crate::host::process;
use crate::pattern;

/// From start to a socket that can be connected to, and from SIGINT to the end.
const LIMIT: Duration = Duration::from_secs(60);

/// What the server logs, beside warnings: clients that come and go, resets, shadow doorbells.
const LOG_LEVEL: &str = "warn,doorbell::vfio_user::server=debug,doorbell_nvme::soft::shadow=debug";

/// The image of a namespace.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// Its name, in messages between guest and host.
    pub name: &'static str,
    /// Its size in blocks of [`pattern::BLOCK`] bytes.
    pub blocks: u64,
    /// Its first blocks hold the pattern of this seed, the rest holds zeros.
    pub seed: u64,
    /// How many blocks those are.
    pub filled: u64,
}

/// A device to be served.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// Its name: QEMU's id of the device, and the name of its socket.
    pub name: &'static str,
    /// The model and its options, as `doorbell export` takes it.
    pub model: &'static str,
    /// Its namespaces.
    pub images: &'static [Image],
    /// Where it is plugged in: the slot on `pcie.0`.
    pub slot: &'static str,
}

impl Served {
    /// Its socket in a folder.
    fn socket(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.sock", self.name))
    }

    /// Where the image of a namespace lies in a folder.
    #[must_use]
    pub fn image(folder: &Path, image: &str) -> PathBuf {
        folder.join(format!("{image}.raw"))
    }

    /// The value of QEMU's `-device`: an object, as the socket's address is one.
    pub(crate) fn device(&self, folder: &Path) -> String {
        json!({
            "driver": "vfio-user-pci", "id": self.name, "bus": "pcie.0", "addr": self.slot,
            "socket": { "type": "unix", "path": self.socket(folder) },
        })
        .to_string()
    }

    fn make_images(&self, folder: &Path) -> Result<()> {
        for image in self.images {
            let path = Self::image(folder, image.name);
            let made = || -> std::io::Result<()> {
                fs::write(&path, pattern::blocks(image.seed, 0, image.filled))?;
                let file = File::options().write(true).open(&path)?;
                file.set_len(image.blocks * pattern::BLOCK as u64)
            };
            made().map_err(|error| LabError::file("write", &path, error))?;
        }
        Ok(())
    }
}

/// A server that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    served: Served,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Makes the images, starts `doorbell export`, and waits until it says that clients can connect.
    ///
    /// # Errors
    /// What it says if it ends instead, or that it does not get that far.
    pub(crate) fn start(
        doorbell: &Path,
        served: Served,
        folder: &Path,
        log: &Path,
    ) -> Result<Self> {
        served.make_images(folder)?;
        let said = folder.join(format!("{}.out", served.name));
        let create =
            |path: &Path| File::create(path).map_err(|error| LabError::file("write", path, error));
        let mut command = process::with_parent(doorbell);
        command.args(["export", served.model]);
        for image in served.images {
            command.arg("--image").arg(Served::image(folder, image.name));
        }
        command.arg("--socket").arg(served.socket(folder)).env("DOORBELL_LOG", LOG_LEVEL);
        command.stdout(create(&said)?).stderr(create(log)?).stdin(Stdio::null());
        let child = command
            .spawn()
            .map_err(|error| LabError::Failed(format!("cannot start doorbell export: {error}")))?;
        let mut server = Self { served, child, log: log.to_owned() };
        let begin = Instant::now();
        while !fs::read_to_string(&said).unwrap_or_default().contains('\n') {
            if !matches!(server.child.try_wait(), Ok(None)) {
                return failed(format!("doorbell export {}: {}", served.model, server.last_line()));
            }
            if begin.elapsed() >= LIMIT {
                return failed(format!("doorbell export {} does not come up", served.model));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Ends it as an operator does, and says what it has done; what is in the images then is durable.
    ///
    /// # Errors
    /// If it does not end well, or has warned of anything.
    pub(crate) fn stop(mut self) -> Result<String> {
        let name = self.served.name;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let signalled = pid.map(|pid| kill_process(pid, Signal::INT));
        if !matches!(signalled, Some(Ok(()))) {
            return failed(format!("the server of {name} has ended: {}", self.last_line()));
        }
        match process::wait(&mut self.child, LIMIT)? {
            Some(status) if status.success() => {}
            Some(status) => {
                return failed(format!(
                    "the server of {name} ended with {status}: {}",
                    self.last_line()
                ));
            }
            None => return failed(format!("the server of {name} does not end")),
        }
        let log = self.log();
        let complaint = log.lines().find(|line| {
            line.split_whitespace().take(2).any(|word| matches!(word, "WARN" | "ERROR"))
        });
        if let Some(complaint) = complaint {
            return failed(format!("the server of {name} complains: {complaint}"));
        }
        let resets = self.logged(RESET);
        Ok(format!("{name} ended well, after {resets} resets"))
    }

    /// In how many lines of its log this is.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn last_line(&self) -> String {
        self.log().lines().last().unwrap_or("it said nothing").to_owned()
    }
}

/// What the server logs when the guest's driver has told the controller of shadow doorbells. From then on the
/// controller looks at no register of an I/O queue.
pub const SHADOWS: &str = "the host keeps shadow doorbells";

/// What the server logs when its client has reset the device.
const RESET: &str = "the client resets the device";

impl Drop for Server {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}
