//! What a guest's hardware looks like: the arguments of QEMU.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{LabError, Result};
use crate::host::firmware;
use crate::host::served::Served;
use crate::pattern;

/// The IOMMU in front of the guest's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Iommu {
    /// Intel VT-d with interrupt remapping.
    Vtd,
    /// virtio-iommu, which remaps no interrupts.
    Virtio,
    /// None at all.
    Absent,
}

/// A file that a device of the machine keeps its blocks in.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// Its name. QEMU's block node is `NAME-drive`; a controller that has it alone uses the name as serial number.
    pub name: &'static str,
    /// Its size in blocks of [`pattern::BLOCK`] bytes.
    pub blocks: u64,
    /// The seed of the pattern that it holds at first.
    pub seed: u64,
}

/// A machine to be.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name, for people and for the plan.
    pub name: &'static str,
    iommu: Iommu,
    memory_mib: u32,
    numa: bool,
    disks: Vec<Disk>,
    devices: Vec<String>,
    append: Vec<String>,
    shared_memory: bool,
    firmware: bool,
    boots: u32,
    served: Vec<Served>,
}

impl Machine {
    /// A q35 with two processors, 1 GiB, VT-d, and nothing else.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            iommu: Iommu::Vtd,
            memory_mib: 1024,
            numa: false,
            disks: Vec::new(),
            devices: Vec::new(),
            append: Vec::new(),
            shared_memory: false,
            firmware: false,
            boots: 1,
            served: Vec::new(),
        }
    }

    /// Another IOMMU, or none.
    #[must_use]
    pub fn iommu(mut self, iommu: Iommu) -> Self {
        self.iommu = iommu;
        self
    }

    /// Two NUMA nodes with a processor and half of the memory each.
    #[must_use]
    pub fn two_nodes(mut self) -> Self {
        self.numa = true;
        self
    }

    /// One more disk, which a device added by [`Machine::device`] is to use.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// One more disk, and an NVMe controller that has it as its only namespace; `place` says where the controller is
    /// plugged in, in QEMU's words.
    #[must_use]
    pub fn nvme(self, disk: Disk, place: &str) -> Self {
        let name = disk.name;
        self.disk(disk).device(format!("nvme,id={name},serial={name},drive={name}-drive,{place}"))
    }

    /// One more device, in the words of QEMU's `-device`.
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.devices.push(device.into());
        self
    }

    /// One more word of the kernel's command line.
    #[must_use]
    pub fn append(mut self, word: impl Into<String>) -> Self {
        self.append.push(word.into());
        self
    }

    /// Memory in a file that other processes can map: without it a device server gets at it by messages only.
    #[must_use]
    pub fn shared_memory(mut self) -> Self {
        self.shared_memory = true;
        self
    }

    /// Firmware that copies blocks of the second disk before the kernel starts (see [`firmware`]).
    #[must_use]
    pub fn firmware(mut self) -> Self {
        self.firmware = true;
        self
    }

    /// How often the guest boots, from one start of QEMU to its end.
    #[must_use]
    pub fn boots(mut self, boots: u32) -> Self {
        self.boots = boots;
        self
    }

    /// One more device, which a process of its own serves over vfio-user.
    #[must_use]
    pub fn served(mut self, served: Served) -> Self {
        self.served.push(served);
        self
    }

    /// The devices that processes of their own serve.
    #[must_use]
    pub fn servers(&self) -> &[Served] {
        &self.served
    }

    /// How often the guest boots.
    #[must_use]
    pub fn boot_count(&self) -> u32 {
        self.boots
    }

    /// The disks.
    #[must_use]
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// Where a disk's image lies in a folder.
    #[must_use]
    pub fn image(folder: &Path, disk: &str) -> PathBuf {
        folder.join(format!("{disk}.raw"))
    }

    /// Writes what the machine needs into `folder`: every disk's image, filled with its pattern, and the firmware.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn make_images(&self, folder: &Path) -> Result<()> {
        for disk in &self.disks {
            let path = Self::image(folder, disk.name);
            let write = || -> std::io::Result<()> {
                let mut file = BufWriter::with_capacity(1 << 20, File::create(&path)?);
                for lba in 0..disk.blocks {
                    file.write_all(&pattern::block(disk.seed, lba))?;
                }
                file.flush()
            };
            write().map_err(|error| LabError::file("write", &path, error))?;
        }
        if self.firmware {
            firmware::write(folder)?;
        }
        Ok(())
    }

    /// Arguments that describe the hardware; images lie in `folder`.
    pub(crate) fn arguments(&self, folder: &Path) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
        let iommu = self.iommu == Iommu::Vtd;
        // Interrupt remapping needs the interrupt controller split from the accelerator's.
        let mut board = if iommu { "q35,kernel-irqchip=split" } else { "q35" }.to_owned();
        if self.shared_memory {
            board.push_str(",memory-backend=memory");
            let size = self.memory_mib;
            add("-object", format!("memory-backend-memfd,id=memory,size={size}M,share=on"));
        }
        add("-machine", board);
        add("-smp", "2".to_owned());
        add("-m", format!("{}M", self.memory_mib));
        if self.numa {
            for node in 0..2 {
                let half = self.memory_mib / 2;
                add("-object", format!("memory-backend-ram,id=m{node},size={half}M"));
                add("-numa", format!("node,nodeid={node},cpus={node},memdev=m{node}"));
            }
            add("-numa", "dist,src=0,dst=1,val=20".to_owned());
        }
        match self.iommu {
            Iommu::Vtd => {
                add("-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48".to_owned());
            }
            Iommu::Virtio => add("-device", "virtio-iommu-pci,bus=pcie.0,addr=03.0".to_owned()),
            Iommu::Absent => {}
        }
        for Disk { name, .. } in &self.disks {
            // A comma in a path is doubled in QEMU's option syntax.
            let image = Self::image(folder, name).display().to_string().replace(',', ",,");
            // A block node, and not a drive, as these go away with the device that is unplugged. Nothing has to survive
            // the host's own crash, so nothing is synchronised to its disk.
            add(
                "-blockdev",
                format!(
                    "driver=raw,node-name={name}-drive,cache.no-flush=on,file.driver=file,\
                     file.filename={image},file.cache.no-flush=on"
                ),
            );
        }
        for device in &self.devices {
            add("-device", device.clone());
        }
        for served in &self.served {
            add("-device", served.device(folder));
        }
        if self.firmware {
            let rom = firmware::path(folder).display().to_string();
            words.extend(["-option-rom".to_owned(), rom.replace(',', ",,")]);
        }
        if self.boots == 1 {
            words.push("-no-reboot".to_owned());
        }
        words
    }

    /// The kernel's command line, but for where its root is.
    pub(crate) fn command_line(&self) -> String {
        // The clock words: an emulator on a busy host is too slow for the kernel's own checks of its timers.
        let mut line =
            "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable nokaslr".to_owned();
        if self.iommu == Iommu::Vtd {
            line.push_str(" intel_iommu=on iommu=nopt");
        }
        for word in &self.append {
            line.push(' ');
            line.push_str(word);
        }
        line
    }
}
