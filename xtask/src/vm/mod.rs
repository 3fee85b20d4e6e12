//! The tests of the packet path, and of what encrypts it, on the kernel that the Debian release comes with, in QEMU: older
//! kernels have no tcx, and their verifier and helpers differ; and this one has WireGuard.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf,
    setup::{self, apt},
    sh,
    suite::Count,
};

/// The tests that are run, and what each is given besides its name. They suit an emulated machine, and many need what
/// this release's kernel has and others lack.
const TESTS: &[(&str, &[&str])] = &[
    ("root_backends", &[]),
    // Interrupted starts take twenty more, of minutes each; every kernel can run them with filters.
    ("root_beside", &["--skip", "interrupted"]),
    ("root_encrypted", &[]),
    ("root_errors", &[]),
    ("root_open", &[]),
    // Without the random packets: see `LEFT_OUT`.
    ("root_packets", &["--skip", "fuzz_"]),
    ("root_paths", &[]),
    // The others are for kernels without SCTP: this one answers what raw sockets send.
    ("root_sctp", &["associations"]),
    ("root_sizes", &[]),
    ("root_sockets", &[]),
    ("root_traffic", &[]),
    ("root_traffic_v6", &[]),
    ("root_upgrade", &[]),
    ("root_uplinks", &[]),
    ("root_verifier", &[]),
    ("root_vlans", &[]),
];

/// The other tests of these crates, and why they are not run.
const LEFT_OUT: &[(&str, &str)] = &[
    ("root_bench", "an emulated processor's speed says nothing"),
    (
        "root_files",
        "user space alone runs out of files, on any kernel",
    ),
    (
        "root_full",
        "thousands of connections take an emulated machine too long",
    ),
    (
        "root_left_out",
        "so do tens of thousands of entries, one system call each",
    ),
    ("root_scale", "so do tables for 5,000 services"),
];

/// The crates whose tests these are.
#[cfg(test)]
const CRATES: [&str; 2] = ["mesh-datapath", "mesh-wireguard"];

/// Names the release's kernel by depending on it.
const META: &str = "linux-image-amd64";

/// What the machine needs before it sees this one's files.
const EARLY: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// What runs the machine, and how long it may take to the first words. KVM takes a few seconds; on some machines it is
/// there and nothing runs on it.
const ACCELERATORS: [(&str, Duration); 2] = [
    ("kvm", Duration::from_secs(20)),
    ("tcg", Duration::from_secs(300)),
];

/// Until the next line: the longest test without a word.
const SILENCE: Duration = Duration::from_secs(1800);

/// Runs `names`, or all of [`TESTS`].
pub(crate) fn run(names: &[String]) -> Result<()> {
    let tests = chosen(names)?;
    setup::run()?;
    if !sh::has("qemu-system-x86_64") {
        sh::say("qemu-system-x86 is missing (the test machine)");
        apt::install(&["qemu-system-x86"])?;
    }
    ebpf::build()?;
    let kernel = Kernel::get(&sh::target().join("vm"))?;
    let commands = commands(&tests)?;
    let initrd = kernel.initrd(&commands)?;
    kernel.boot(&initrd)
}

/// A test and what it is given.
type Test = (&'static str, &'static [&'static str]);

/// The tests of these names; all if there are none.
fn chosen(names: &[String]) -> Result<Vec<Test>> {
    if names.is_empty() {
        return Ok(TESTS.to_vec());
    }
    let find = |name: &String| {
        if let Some((_, why)) = LEFT_OUT.iter().find(|(test, _)| test == name) {
            bail!("{name} is not run in the machine: {why}");
        }
        let test = TESTS.iter().find(|(test, _)| test == name);
        let all = || TESTS.iter().map(|(test, _)| *test).collect::<Vec<_>>();
        test.copied()
            .with_context(|| format!("no test {name}: there are {}", all().join(", ")))
    };
    names.iter().map(find).collect()
}

/// Builds the tests and gives the command of each.
fn commands(tests: &[Test]) -> Result<Vec<String>> {
    let mut build = sh::cargo();
    // With the features that the whole workspace asks for: all else would be built once more.
    build.args(["test", "--workspace", "--no-run"]);
    for (name, _) in tests {
        build.args(["--test", name]);
    }
    println!("+ {}", sh::shown(&build));
    let built = build.stderr(Stdio::piped()).output()?;
    let text = String::from_utf8_lossy(&built.stderr);
    let paths: Vec<PathBuf> = text.lines().filter_map(executable).collect();
    let commands: Option<Vec<String>> = tests.iter().map(|test| command(&paths, test)).collect();
    match commands {
        Some(commands) if built.status.success() => Ok(commands),
        _ => bail!("the tests did not build:\n{text}"),
    }
}

/// The command of a test that is among these executables: cargo adds a dash and a number to its name.
fn command(paths: &[PathBuf], (name, args): &Test) -> Option<String> {
    let is_its = |path: &&PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.rsplit_once('-').is_some_and(|(test, _)| test == *name)
    };
    let path = paths.iter().find(is_its)?.display().to_string();
    Some([&[path.as_str()], *args].concat().join(" "))
}

/// The path in a line of `cargo test --no-run`.
fn executable(line: &str) -> Option<PathBuf> {
    let rest = line.trim().strip_prefix("Executable ")?;
    let path = rest.split_once('(')?.1.strip_suffix(')')?;
    Some(sh::root().join(path))
}

/// An unpacked kernel package.
struct Kernel {
    dir: PathBuf,
    /// As `uname -r` tells it.
    release: String,
}

impl Kernel {
    /// The release's newest kernel, downloaded unless `dir` has it.
    fn get(dir: &Path) -> Result<Self> {
        if !apt::look_for(|| apt::known(META))? {
            bail!("no apt source offers {META}");
        }
        let text = sh::output("apt-cache", &["depends", META]).unwrap_or_default();
        let package = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
            .with_context(|| format!("{META} depends on no kernel"))?;
        let kernel = Self {
            dir: dir.join(package),
            release: package.to_owned(),
        };
        if !kernel.modules().join("modules.dep").exists() {
            fs::create_dir_all(&kernel.dir)?;
            let name = format!("linux-image-{package}");
            sh::say(&format!("downloading {name}"));
            sh::run(
                Command::new("apt-get")
                    .args(["-q", "download", &name])
                    .current_dir(&kernel.dir),
            )?;
            for entry in fs::read_dir(&kernel.dir)? {
                let archive = entry?.path();
                if archive.extension().is_some_and(|kind| kind == "deb") {
                    let mut unpack = Command::new("dpkg-deb");
                    sh::run(unpack.arg("--extract").arg(&archive).arg(&kernel.dir))?;
                    fs::remove_file(&archive)?;
                }
            }
            let mut depmod = Command::new("busybox");
            depmod.arg("depmod").arg("-b").arg(&kernel.dir);
            sh::run(depmod.arg(&kernel.release))?;
        }
        Ok(kernel)
    }

    fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }

    /// Makes the first file system: busybox, a few modules, and what `init` is told.
    fn initrd(&self, commands: &[String]) -> Result<PathBuf> {
        let tree = self.dir.join("initrd");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        for folder in ["bin", "proc", "sys", "dev", "lower", "upper", "new"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
        fs::write(tree.join("init"), include_str!("init"))?;
        sh::run(Command::new("chmod").arg("+x").arg(tree.join("init")))?;
        let modules = self.modules();
        let shown = self.dir.join("lib/modules");
        let settings = format!(
            "MODULES='{}'\nWORKSPACE='{}'\n",
            shown.display(),
            sh::root().join("mesh-datapath").display()
        );
        fs::write(tree.join("settings"), settings)?;
        fs::write(tree.join("tests"), commands.join("\n") + "\n")?;
        let depends = fs::read_to_string(modules.join("modules.dep"))?;
        let own = tree.join("lib/modules").join(&self.release);
        for file in files_of(&depends, &EARLY) {
            let to = own.join(file);
            fs::create_dir_all(to.parent().unwrap_or(&own))?;
            fs::copy(modules.join(file), to)?;
        }
        fs::copy(modules.join("modules.dep"), own.join("modules.dep"))?;
        let initrd = self.dir.join("initrd.cpio");
        let mut pack = Command::new("sh");
        pack.arg("-c")
            .arg("find . | busybox cpio -o -H newc >../initrd.cpio")
            .current_dir(&tree);
        sh::run(&mut pack)?;
        Ok(initrd)
    }

    /// Boots with KVM, or emulated where that does not work, and passes on what the tests say.
    fn boot(&self, initrd: &Path) -> Result<()> {
        for (accelerator, limit) in ACCELERATORS {
            let mut machine = Machine::start(&mut self.qemu(initrd, accelerator))?;
            let Some(first) = machine.first_words(limit) else {
                sh::say(&format!("nothing boots with {accelerator}"));
                continue;
            };
            println!("{first} ({accelerator})");
            return machine.follow();
        }
        bail!("no test machine")
    }

    fn qemu(&self, initrd: &Path, accelerator: &str) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", accelerator, "-machine", "q35", "-cpu", "max"])
            .args(["-smp", "2", "-m", "4096", "-nodefaults", "-nographic"])
            .args(["-no-reboot", "-serial", "stdio"])
            .arg("-virtfs")
            .arg("local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap")
            .arg("-kernel")
            .arg(self.dir.join(format!("boot/vmlinuz-{}", self.release)))
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", "console=ttyS0 quiet panic=-1"]);
        qemu
    }
}

/// The files of these modules and of those that they need, from `modules.dep`.
fn files_of<'a>(depends: &'a str, modules: &[&str]) -> Vec<&'a str> {
    let is_wanted = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let name = name.split_once(".ko").map_or(name, |(name, _)| name);
        modules.contains(&name)
    };
    depends
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(path, _)| is_wanted(path))
        .flat_map(|(path, needed)| [path].into_iter().chain(needed.split_whitespace()))
        .collect()
}

/// A running machine, ended when dropped.
struct Machine {
    qemu: Child,
    lines: Receiver<String>,
}

impl Machine {
    fn start(command: &mut Command) -> Result<Self> {
        println!("+ {}", sh::shown(command));
        let mut qemu = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start QEMU")?;
        let output = qemu.stdout.take().context("QEMU has no output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        Ok(Self { qemu, lines })
    }

    /// What the machine says once it is up: its kernel's version. Its firmware leaves control characters before that.
    fn first_words(&mut self, limit: Duration) -> Option<String> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).ok()?;
            if let Some(at) = line.find("vm-test: Linux") {
                return Some(line[at..].to_owned());
            }
        }
    }

    /// Passes on what the tests say, and fails if one of them does.
    fn follow(&mut self) -> Result<()> {
        let mut count = Count::default();
        let mut verdict = None;
        loop {
            match self.lines.recv_timeout(SILENCE) {
                Ok(line) => {
                    println!("{line}");
                    count.read(&line);
                    if let Some(code) = line.strip_prefix("vm-test: ended with ") {
                        verdict = Some(code == "0");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!("the machine has nothing more to say"),
            }
        }
        println!("{count}");
        match verdict {
            Some(true) if count.passed() > 0 => Ok(()),
            Some(_) => bail!("tests failed on this kernel"),
            None => bail!("the machine broke down"),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let depends = "kernel/a/x.ko: kernel/b/y.ko.xz kernel/z.ko\nkernel/b/y.ko.xz: kernel/z.ko\nkernel/z.ko:\n";
        let files = files_of(depends, &["x", "z"]);
        assert_eq!(
            files,
            [
                "kernel/a/x.ko",
                "kernel/b/y.ko.xz",
                "kernel/z.ko",
                "kernel/z.ko"
            ]
        );
        assert!(files_of(depends, &["ko"]).is_empty());
    }

    #[test]
    fn executables_are_found_in_what_cargo_says() {
        let line = "  Executable tests/root_open.rs (target/debug/deps/root_open-0df2)";
        let path = executable(line).unwrap();
        assert!(path.ends_with("target/debug/deps/root_open-0df2"));
        assert_eq!(executable("   Compiling mesh-datapath (path)"), None);
    }

    #[test]
    fn commands_have_what_their_tests_are_given() {
        let paths = ["/t/root_traffic_v6-1", "/t/root_traffic-2"].map(PathBuf::from);
        let command = |name| command(&paths, &(name, &["--skip", "fuzz_"]));
        assert_eq!(
            command("root_traffic").as_deref(),
            Some("/t/root_traffic-2 --skip fuzz_")
        );
        assert_eq!(command("root"), None);
    }

    #[test]
    fn every_test_of_the_packet_path_is_run_or_left_out_for_a_reason() {
        let mut known: Vec<&str> = TESTS.iter().map(|(name, _)| *name).collect();
        known.extend(LEFT_OUT.iter().map(|(name, _)| *name));
        known.sort_unstable();
        let mut there = Vec::new();
        for folder in CRATES.map(|name| sh::root().join(name).join("tests")) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|kind| kind == "rs")
                    || path.join("main.rs").exists()
                {
                    there.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        there.sort_unstable();
        assert_eq!(known, there);
    }

    #[test]
    fn names_choose_tests() {
        let chosen = |name: &str| chosen(&[name.to_owned()]);
        assert_eq!(chosen("root_packets").unwrap()[0].1, ["--skip", "fuzz_"]);
        let why = chosen("root_scale").unwrap_err().to_string();
        assert!(why.contains("tables for 5,000 services"), "{why}");
        let why = chosen("root_none").unwrap_err().to_string();
        assert!(why.contains("there are root_backends, "), "{why}");
    }
}
