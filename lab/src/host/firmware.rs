//! Firmware that uses a disk before there is an operating system.
//!
//! A kernel that QEMU loads by itself needs no disk, so firmware would only find the controllers and go on. The option
//! ROM here makes it do more: it hooks INT 19h, by which the BIOS begins to boot. There it copies blocks of the second
//! disk to another place by INT 13h, as a boot loader reads and writes, and lets the boot go on. It does so at every boot.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{LabError, Result};

/// The blocks that are copied begin here.
pub const FROM: u16 = 0;
/// So far behind them lies their copy.
pub const DISTANCE: u16 = 1024;
/// How many blocks are copied.
pub const BLOCKS: u16 = STEPS * STEP;

/// The BIOS's number of the second disk: that of a controller's second namespace, where it is the only controller.
const DRIVE: u8 = 0x81;

/// How many blocks each of the BIOS's reads and writes moves.
const STEP: u16 = 8;
const STEPS: u16 = 16;

/// The size of the ROM.
const SIZE: usize = 512;

/// Where the code lies in the ROM, which is what the code itself says.
const HOOK: u16 = 0x24;
const OLD: u16 = 0x89;

/// Where the ROM lies in a folder.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("firmware.rom")
}

/// Writes the ROM into a folder.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let path = path(folder);
    fs::write(&path, rom()).map_err(|error| LabError::file("write", &path, error))
}

/// The ROM: the signature, its length in units of 512 bytes, code from offset 3, a sum of zero.
fn rom() -> Vec<u8> {
    let mut rom = vec![0x55, 0xaa, (SIZE / 512) as u8];
    rom.extend(code());
    rom.resize(SIZE - 1, 0);
    let sum = rom.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    rom.push(sum.wrapping_neg());
    rom
}

/// 16-bit code. The packet of INT 13h (Enhanced Disk Drive) lies at 0:7e00, the data at 0:8000: where a boot sector would
/// find free memory as well.
fn code() -> Vec<u8> {
    let [hook_low, hook_high] = HOOK.to_le_bytes();
    let [old_low, old_high] = OLD.to_le_bytes();
    let [segment_low, segment_high] = (OLD + 2).to_le_bytes();
    let [step, _] = STEP.to_le_bytes();
    let [steps_low, steps_high] = STEPS.to_le_bytes();
    let [from_low, from_high] = FROM.to_le_bytes();
    let [distance_low, distance_high] = DISTANCE.to_le_bytes();
    #[rustfmt::skip]
    let code = [
        // The BIOS calls this once. The vector of INT 19h is at 0:64.
        0x1e,                                           // 03: push ds
        0x50,                                           //     push ax
        0x31, 0xc0,                                     //     xor ax, ax
        0x8e, 0xd8,                                     //     mov ds, ax
        0xa1, 0x64, 0x00,                               //     mov ax, [0x64]
        0x2e, 0xa3, old_low, old_high,                  //     mov cs:[old], ax
        0xa1, 0x66, 0x00,                               //     mov ax, [0x66]
        0x2e, 0xa3, segment_low, segment_high,          //     mov cs:[old + 2], ax
        0xc7, 0x06, 0x64, 0x00, hook_low, hook_high,    //     mov word [0x64], hook
        0x8c, 0x0e, 0x66, 0x00,                         //     mov [0x66], cs
        0x58,                                           //     pop ax
        0x1f,                                           //     pop ds
        0xcb,                                           //     retf
        // INT 19h: the packet: its size, blocks, the buffer, the block's number (set below; its upper part is 0).
        0x60,                                           // 24: pusha
        0x1e,                                           //     push ds
        0x31, 0xc0,                                     //     xor ax, ax
        0x8e, 0xd8,                                     //     mov ds, ax
        0xc7, 0x06, 0x00, 0x7e, 0x10, 0x00,             //     mov word [0x7e00], 16
        0xc7, 0x06, 0x02, 0x7e, step, 0x00,             //     mov word [0x7e02], STEP
        0xc7, 0x06, 0x04, 0x7e, 0x00, 0x80,             //     mov word [0x7e04], 0x8000
        0xc7, 0x06, 0x06, 0x7e, 0x00, 0x00,             //     mov word [0x7e06], 0
        0xc7, 0x06, 0x0a, 0x7e, 0x00, 0x00,             //     mov word [0x7e0a], 0
        0xc7, 0x06, 0x0c, 0x7e, 0x00, 0x00,             //     mov word [0x7e0c], 0
        0xc7, 0x06, 0x0e, 0x7e, 0x00, 0x00,             //     mov word [0x7e0e], 0
        0xbf, from_low, from_high,                      //     mov di, FROM
        0xb9, steps_low, steps_high,                    //     mov cx, STEPS
        // Read from di.
        0x89, 0x3e, 0x08, 0x7e,                         // 5a: mov [0x7e08], di
        0xbe, 0x00, 0x7e,                               //     mov si, 0x7e00
        0xb2, DRIVE,                                    //     mov dl, DRIVE
        0xb4, 0x42,                                     //     mov ah, 0x42
        0xcd, 0x13,                                     //     int 0x13
        0x72, 0x19,                                     //     jc 82
        // Write to di + DISTANCE.
        0x89, 0xf8,                                     //     mov ax, di
        0x05, distance_low, distance_high,              //     add ax, DISTANCE
        0xa3, 0x08, 0x7e,                               //     mov [0x7e08], ax
        0xbe, 0x00, 0x7e,                               //     mov si, 0x7e00
        0xb2, DRIVE,                                    //     mov dl, DRIVE
        0xb8, 0x00, 0x43,                               //     mov ax, 0x4300
        0xcd, 0x13,                                     //     int 0x13
        0x72, 0x05,                                     //     jc 82
        0x83, 0xc7, step,                               //     add di, STEP
        0xe2, 0xd8,                                     //     loop 5a
        0x1f,                                           // 82: pop ds
        0x61,                                           //     popa
        0x2e, 0xff, 0x2e, old_low, old_high,            //     jmp far cs:[old]
        0x00, 0x00, 0x00, 0x00,                         // 89: old
    ];
    code.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rom_is_one_that_a_bios_runs() {
        let rom = rom();
        assert_eq!(rom.len(), SIZE);
        assert_eq!(rom.get(..3), Some(&[0x55, 0xaa, 1][..]));
        assert_eq!(rom.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(rom.get(usize::from(HOOK)), Some(&0x60), "the hook begins with pusha");
        assert_eq!(
            rom.get(usize::from(OLD) - 5..usize::from(OLD) - 2),
            Some(&[0x2e, 0xff, 0x2e][..])
        );
        assert_eq!(rom.get(usize::from(OLD)..), Some(&rom[usize::from(OLD)..]));
        assert!(rom[usize::from(OLD)..SIZE - 1].iter().all(|byte| *byte == 0));
    }
}
