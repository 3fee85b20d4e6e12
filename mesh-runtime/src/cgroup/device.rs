//! Device access in cgroup2: a BPF program of ours, since cgroup2 has no `devices.allow` file.
//!
//! The program is assembled by hand: one comparison per allowed device over the context
//! `{ u32 access_type, u32 major, u32 minor }`, where access_type is `access << 16 | type`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// A device containers may use. `None` matches every number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceRule {
    /// `c` or `b`.
    pub(crate) kind: char,
    pub(crate) major: Option<i64>,
    pub(crate) minor: Option<i64>,
    /// Letters of `rwm`.
    pub(crate) access: &'static str,
}

const fn rule(
    kind: char,
    major: Option<i64>,
    minor: Option<i64>,
    access: &'static str,
) -> DeviceRule {
    DeviceRule {
        kind,
        major,
        minor,
        access,
    }
}

/// What Docker allows: making any node, using only the harmless ones.
pub(crate) const DEFAULT_RULES: &[DeviceRule] = &[
    rule('c', None, None, "m"),
    rule('b', None, None, "m"),
    rule('c', Some(1), Some(3), "rwm"), // null
    rule('c', Some(1), Some(5), "rwm"), // zero
    rule('c', Some(1), Some(7), "rwm"), // full
    rule('c', Some(1), Some(8), "rwm"), // random
    rule('c', Some(1), Some(9), "rwm"), // urandom
    rule('c', Some(5), Some(0), "rwm"), // tty
    rule('c', Some(5), Some(1), "rwm"), // console
    rule('c', Some(5), Some(2), "rwm"), // ptmx
    rule('c', Some(136), None, "rwm"),  // pts/*
];

const ACCESS_MKNOD: u32 = 1;
const ACCESS_READ: u32 = 2;
const ACCESS_WRITE: u32 = 4;
const TYPE_BLOCK: u32 = 1;
const TYPE_CHAR: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination register in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | (source << 4),
        offset,
        immediate,
    }
}

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const MOVE_NUMBER: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND_NUMBER: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95;

/// r2 = type, r3 = access, r4 = major, r5 = minor; per rule: all match -> return 1; at last 0.
fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND_NUMBER, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.kind == 'b' {
            TYPE_BLOCK
        } else {
            TYPE_CHAR
        };
        let mut allowed = 0;
        for letter in rule.access.chars() {
            allowed |= match letter {
                'r' => ACCESS_READ,
                'w' => ACCESS_WRITE,
                _ => ACCESS_MKNOD,
            };
        }
        // r0 = access bits asked for but not allowed by this rule.
        let mut checks = vec![
            op(JUMP_NOT_EQUAL, 2, 0, 0, kind as i32),
            op(MOVE_REGISTER, 0, 3, 0, 0),
            op(AND_NUMBER, 0, 0, 0, !allowed as i32),
            op(JUMP_NOT_EQUAL, 0, 0, 0, 0),
        ];
        if let Some(major) = rule.major {
            checks.push(op(JUMP_NOT_EQUAL, 4, 0, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            checks.push(op(JUMP_NOT_EQUAL, 5, 0, 0, minor as i32));
        }
        checks.push(op(MOVE_NUMBER, 0, 0, 0, 1));
        checks.push(op(EXIT, 0, 0, 0, 0));
        let length = checks.len();
        for (index, instruction) in checks.iter_mut().enumerate() {
            if instruction.code == JUMP_NOT_EQUAL {
                instruction.offset = (length - index - 1) as i16;
            }
        }
        program.extend(checks);
    }
    program.push(op(MOVE_NUMBER, 0, 0, 0, 0));
    program.push(op(EXIT, 0, 0, 0, 0));
    program
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads here.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_ATTACH reads.
#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// Restricts the devices usable in the cgroup2 directory `cgroup` to `rules`. The restriction lives
/// as long as the directory.
///
/// # Errors
/// When the kernel has no BPF, or refuses (CAP_BPF and CAP_NET_ADMIN or CAP_SYS_ADMIN are needed).
pub(crate) fn restrict(cgroup: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let program = assemble(rules);
    let load = LoadAttributes {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttributes::default()
    };
    // SAFETY: the attributes point at a program and a string that outlive the call; on success the
    // kernel returns a new descriptor that nobody else owns.
    let program_fd = unsafe {
        let fd = libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            &raw const load,
            size_of::<LoadAttributes>(),
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd as i32)
    };
    let directory = crate::fds::open_directory(cgroup)?;
    let attach = AttachAttributes {
        target: directory.as_raw_fd() as u32,
        program: program_fd.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the attributes outlive the call and hold two open descriptors.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<AttachAttributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program the way the kernel does, for the instructions it uses.
    fn allowed(rules: &[DeviceRule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let program = assemble(rules);
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 6];
        let mut at = 0;
        loop {
            let i = program[at];
            let (d, s) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            at += 1;
            match i.code {
                LOAD_WORD => registers[d] = context[i.offset as usize / 4].into(),
                MOVE_REGISTER => registers[d] = registers[s],
                MOVE_NUMBER => registers[d] = i.immediate as u64,
                AND_NUMBER => registers[d] = (registers[d] as u32 & i.immediate as u32).into(),
                SHIFT_RIGHT => registers[d] = (registers[d] as u32 >> i.immediate).into(),
                JUMP_NOT_EQUAL if registers[d] != i.immediate as u64 => at += i.offset as usize,
                JUMP_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_default_rules_allow_null_and_forbid_disks_and_memory() {
        let read_write = ACCESS_READ | ACCESS_WRITE;
        assert!(allowed(DEFAULT_RULES, TYPE_CHAR, read_write, 1, 3));
        assert!(allowed(DEFAULT_RULES, TYPE_CHAR, read_write, 136, 42));
        assert!(allowed(DEFAULT_RULES, TYPE_BLOCK, ACCESS_MKNOD, 8, 0));
        assert!(!allowed(DEFAULT_RULES, TYPE_BLOCK, ACCESS_READ, 8, 0));
        assert!(!allowed(DEFAULT_RULES, TYPE_CHAR, ACCESS_READ, 1, 1));
        assert!(!allowed(
            DEFAULT_RULES,
            TYPE_CHAR,
            ACCESS_MKNOD | ACCESS_READ,
            1,
            1
        ));
        assert!(!allowed(DEFAULT_RULES, TYPE_BLOCK, ACCESS_READ, 1, 3));
    }
}
