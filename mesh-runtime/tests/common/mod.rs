//! A world for one test: directories, a cgroup parent and a busybox root file system of its own,
//! all removed when the test ends, however it ends.

#![expect(dead_code, reason = "every test file uses a part of it")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use mesh_runtime::{ContainerSpec, ExecSpec, ExitStatus, LogOptions, Runtime, RuntimeConfig};
use tokio::io::AsyncReadExt;

/// Longest wait for anything in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Directories and a runtime.
pub(crate) struct World {
    pub(crate) root: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) runtime: Runtime,
}

impl World {
    pub(crate) async fn new(name: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes containers: run it as root (cargo xtask test)"
        );
        let unique = format!("rt-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(&unique);
        make_rootfs(&root.join("rootfs"));
        let cgroup = format!("mesh-test/{unique}");
        let runtime = Runtime::open(config(&root, &cgroup)).await.unwrap();
        Self {
            root,
            cgroup,
            runtime,
        }
    }

    /// A second agent over the same directories, as after a restart.
    pub(crate) async fn reopen(&self) -> Runtime {
        Runtime::open(config(&self.root, &self.cgroup))
            .await
            .unwrap()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.root.join("rootfs")
    }

    pub(crate) fn spec(&self, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.to_owned(),
            rootfs: self.rootfs(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            ..ContainerSpec::default()
        }
    }

    /// Creates and starts.
    pub(crate) async fn run(&self, spec: &ContainerSpec) {
        self.runtime.create(spec).await.unwrap();
        self.runtime.start(&spec.id).await.unwrap();
    }

    /// Runs to the end; how it ended and what it wrote to both streams.
    pub(crate) async fn complete(&self, spec: &ContainerSpec) -> (ExitStatus, String) {
        self.run(spec).await;
        let status = self.wait(&spec.id).await;
        (status, self.output(&spec.id).await)
    }

    pub(crate) async fn wait(&self, id: &str) -> ExitStatus {
        within(self.runtime.wait(id)).await.unwrap()
    }

    pub(crate) async fn output(&self, id: &str) -> String {
        let stream = self.runtime.logs(id, LogOptions::default()).await.unwrap();
        let records: Vec<_> = stream.collect().await;
        let lines = records.into_iter().map(|record| record.unwrap().line);
        String::from_utf8(lines.collect::<Vec<_>>().concat()).unwrap()
    }

    pub(crate) async fn exec(&self, id: &str, args: &[&str]) -> (i32, String) {
        let spec = ExecSpec {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..ExecSpec::default()
        };
        self.exec_spec(id, &spec).await
    }

    /// Runs an exec to its end; exit code and both outputs.
    pub(crate) async fn exec_spec(&self, id: &str, spec: &ExecSpec) -> (i32, String) {
        let mut session = self.runtime.exec(id, spec).await.unwrap();
        let mut text = Vec::new();
        for source in [&mut session.stdout, &mut session.stderr]
            .into_iter()
            .flatten()
        {
            within(source.read_to_end(&mut text)).await.unwrap();
        }
        let code = within(session.handle.wait()).await.unwrap();
        (code, String::from_utf8_lossy(&text).into_owned())
    }

    /// Waits until the container has written a line that contains `words`.
    pub(crate) async fn wait_for_line(&self, id: &str, words: &str) -> String {
        let options = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let mut stream = self.runtime.logs(id, options).await.unwrap();
        loop {
            let record = within(stream.next()).await.expect("the log ended").unwrap();
            let line = String::from_utf8_lossy(&record.line).into_owned();
            if line.contains(words) {
                return line;
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let runtime = self.runtime.clone();
        let cleaned = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            tokio.unwrap().block_on(async {
                // A fresh look at the directories: the test's own runtime may be gone or stuck.
                if let Ok(fresh) = Runtime::open(runtime.config().clone()).await {
                    for info in fresh.list() {
                        let _ = fresh.delete(&info.spec.id).await;
                    }
                    fresh.remove_parent_cgroups();
                }
            });
        });
        let _ = cleaned.join();
        let _ = fs::remove_dir_all(&self.root);
    }
}

pub(crate) fn config(root: &Path, cgroup: &str) -> RuntimeConfig {
    RuntimeConfig {
        state_dir: root.join("state"),
        run_dir: root.join("run"),
        cgroup_parent: cgroup.to_owned(),
        shim_exe: env!("CARGO_BIN_EXE_mesh-shim").into(),
        agent_exe: None,
    }
}

/// Fails instead of hanging.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("timed out")
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < DEADLINE, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads a file of the first hierarchy that has it.
pub(crate) fn cgroup_file(path: &str, v1: (&str, &str), v2: &str) -> String {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let candidates = [format!("/sys/fs/cgroup/{}/{path}/{}", v1.0, v1.1)];
    let second = roots.map(|root| format!("{root}/{path}/{v2}"));
    candidates
        .into_iter()
        .chain(second)
        .find_map(|file| fs::read_to_string(file).ok())
        .unwrap_or_else(|| panic!("no cgroup file {} or {v2} for {path}", v1.1))
        .trim()
        .to_owned()
}

/// Every cgroup directory of `path`.
pub(crate) fn cgroup_directories(path: &str) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let mut found = vec![base.join(path)];
    for entry in fs::read_dir(base).unwrap().flatten() {
        found.push(entry.path().join(path));
    }
    found.retain(|directory| directory.exists());
    found
}

fn make_rootfs(root: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.into_iter().find(|path| path.exists());
    let busybox = busybox.expect("no busybox: install the package busybox-static");
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let applets = "sh cat echo sleep ls id env hostname stat grep ps kill mount unshare dd tty \
                   stty chroot seq head tail wc true false mknod touch test pwd printf yes ip";
    for applet in applets.split_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/home:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:34:\nextra:x:77:web\n",
    )
    .unwrap();
}
