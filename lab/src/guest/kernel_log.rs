//! The kernel's log, from a given moment on.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// A place in the log. Reading it gives what was logged since.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
    text: String,
}

impl KernelLog {
    /// From now on.
    ///
    /// # Errors
    /// If `/dev/kmsg` cannot be read.
    pub fn from_now() -> io::Result<Self> {
        let mut log = Self::from_boot()?;
        log.file.seek(SeekFrom::End(0))?;
        Ok(log)
    }

    /// Everything since the kernel started, as far as it still has it.
    ///
    /// # Errors
    /// If `/dev/kmsg` cannot be read.
    pub fn from_boot() -> io::Result<Self> {
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg")?;
        Ok(Self { file, text: String::new() })
    }

    /// Everything logged since, one message a line.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn text(&mut self) -> io::Result<&str> {
        // Each read gives one record: "PRIORITY,NUMBER,TIME,FLAGS;MESSAGE\n", then continuation lines.
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(n) => {
                    let record =
                        String::from_utf8_lossy(record.get(..n).unwrap_or_default()).into_owned();
                    let message = record.split_once(';').map_or(record.as_str(), |both| both.1);
                    self.text.push_str(message.lines().next().unwrap_or_default());
                    self.text.push('\n');
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The ring went over records that nobody had read: go on with the oldest that is left.
                Err(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.text)
    }
}
