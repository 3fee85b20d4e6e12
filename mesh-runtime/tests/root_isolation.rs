//! What a container can see, use and do.

mod common;

use common::{World, cgroup_file, eventually};
use mesh_runtime::{BindMount, ExecSpec, ExtraFile, Mount, TmpfsMount, Ulimit};

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))[name.len()..].trim()
}

#[tokio::test]
async fn seccomp_and_capabilities_apply_to_the_command_and_to_execs() {
    let world = World::new("confine").await;
    let script = "cat /proc/self/status; unshare -U true; echo unshare=$?; sleep 1000";
    world.run(&world.spec("a", script)).await;
    world.wait_for_line("a", "unshare=").await;
    let own = world.output("a").await;
    let (code, exec) = world
        .exec("a", &["sh", "-c", &script.replace("sleep 1000", "true")])
        .await;
    assert_eq!(code, 0);
    for text in [&own, &exec] {
        assert_eq!(field(text, "Seccomp:"), "2", "{text}");
        assert_eq!(field(text, "CapEff:"), "00000000a80425fb");
        assert_eq!(field(text, "CapBnd:"), "00000000a80425fb");
        assert_eq!(field(text, "CapPrm:"), "00000000a80425fb");
        assert_eq!(field(text, "CapInh:"), "0000000000000000");
        assert_eq!(field(text, "NoNewPrivs:"), "0");
        assert!(text.contains("Operation not permitted"), "{text}");
        assert_eq!(field(text, "unshare="), "1");
    }
    let (code, text) = world
        .exec("a", &["mount", "-t", "tmpfs", "x", "/tmp"])
        .await;
    assert_ne!(code, 0, "{text}");

    let mut privileged = ExecSpec {
        args: ["cat", "/proc/self/status"].map(str::to_owned).to_vec(),
        privileged: true,
        ..ExecSpec::default()
    };
    let (_, text) = world.exec_spec("a", &privileged).await;
    assert_eq!(field(&text, "Seccomp:"), "0");
    privileged.privileged = false;
    privileged.user = "web".to_owned();
    let (_, text) = world.exec_spec("a", &privileged).await;
    assert_eq!(field(&text, "Uid:"), "33\t33\t33\t33");
    assert_eq!(field(&text, "Groups:"), "34 77");
    assert_eq!(field(&text, "CapEff:"), "0000000000000000");
    assert_eq!(field(&text, "Seccomp:"), "2");
}

#[tokio::test]
async fn the_seccomp_filter_refuses_what_capabilities_would_allow() {
    let world = World::new("filter").await;
    // To the kernel, a user namespace takes no capability: it is the filter that refuses one to who has no CAP_SYS_ADMIN.
    let mut spec = world.spec("a", "unshare -U true; echo unshare=$?");
    spec.cap_add = vec!["ALL".to_owned()];
    spec.cap_drop = vec!["SYS_ADMIN".to_owned()];
    let (_, text) = world.complete(&spec).await;
    assert_eq!(field(&text, "unshare="), "1", "{text}");
    assert!(text.contains("Operation not permitted"), "{text}");
    let mut spec = world.spec("b", "unshare -n true; echo unshare=$?");
    spec.cap_add = vec!["SYS_ADMIN".to_owned()];
    let (_, text) = world.complete(&spec).await;
    assert_eq!(field(&text, "unshare="), "0", "{text}");
    let mut spec = world.spec(
        "c",
        "unshare -U true; echo unshare=$?; cat /proc/self/status",
    );
    spec.seccomp_unconfined = true;
    let (_, text) = world.complete(&spec).await;
    assert_eq!(field(&text, "Seccomp:"), "0");
    assert_eq!(field(&text, "unshare="), "0", "{text}");
}

#[tokio::test]
async fn no_new_privileges_and_dropped_capabilities() {
    let world = World::new("nnp").await;
    let mut spec = world.spec("a", "cat /proc/self/status; sleep 1000");
    spec.no_new_privileges = true;
    spec.cap_drop = vec!["ALL".to_owned()];
    world.run(&spec).await;
    world.wait_for_line("a", "Seccomp_filters").await;
    let own = world.output("a").await;
    let (_, exec) = world.exec("a", &["cat", "/proc/self/status"]).await;
    for text in [&own, &exec] {
        assert_eq!(field(text, "NoNewPrivs:"), "1");
        assert_eq!(field(text, "CapEff:"), "0000000000000000");
        assert_eq!(field(text, "CapBnd:"), "0000000000000000");
        assert_eq!(field(text, "Seccomp:"), "2");
    }
}

#[tokio::test]
async fn paths_are_masked_and_read_only() {
    let world = World::new("paths").await;
    let script = "
        ls /sys/firmware | wc -l; wc -c < /proc/keys
        echo x 2>/dev/null > /proc/sys/kernel/domainname || echo sys-ro
        echo x 2>/dev/null > /sys/kernel/mm/transparent_hugepage/enabled || echo sysfs-ro
        touch /sys/fs/cgroup/x 2>/dev/null || echo cgroup-ro
        for f in memory/memory.limit_in_bytes pids/pids.max memory.max pids.max; do
            (echo 100 > /sys/fs/cgroup/$f) 2>/dev/null && echo $f is writable
        done
        cat /proc/1/environ >/dev/null && echo done";
    let (_, text) = world.complete(&world.spec("a", script)).await;
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(lines, ["0", "0", "sys-ro", "sysfs-ro", "cgroup-ro", "done"]);
}

#[tokio::test]
async fn devices_are_the_default_ones() {
    let world = World::new("devices").await;
    let script = "
        for d in null zero full random urandom tty; do test -c /dev/$d || echo missing $d; done
        for d in pts shm mqueue; do test -d /dev/$d || echo missing $d; done
        echo x > /dev/null && head -c 4 /dev/zero | wc -c
        mknod /tmp/mem c 1 1 && echo made; cat /tmp/mem >/dev/null 2>&1 || echo mem-denied
        mknod /tmp/kmsg c 1 11; echo x 2>/dev/null > /tmp/kmsg || echo kmsg-denied";
    let (_, text) = world.complete(&world.spec("a", script)).await;
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(lines, ["4", "made", "mem-denied", "kmsg-denied"]);
}

#[tokio::test]
async fn namespaces_hostname_and_environment() {
    let world = World::new("names").await;
    let mut spec = world.spec(
        "abcdefghijklmnop",
        "hostname; echo $$; env; pwd; ps | wc -l",
    );
    spec.env = vec!["A=b c".to_owned()];
    spec.cwd = "/made/here".to_owned();
    let (_, text) = world.complete(&spec).await;
    assert!(text.starts_with("abcdefghijkl\n1\n"), "{text}");
    for line in ["A=b c", "HOME=/root", "HOSTNAME=abcdefghijkl", "/made/here"] {
        assert!(text.lines().any(|l| l == line), "{line} not in {text}");
    }
    let mut spec = world.spec("b", "id; echo $HOME; ls -l /proc/self/ns; hostname");
    spec.user = "web".to_owned();
    spec.hostname = "my.host".to_owned();
    let (_, text) = world.complete(&spec).await;
    assert!(
        text.contains("uid=33(web) gid=34(web) groups=34(web),77(extra)"),
        "{text}"
    );
    assert!(
        text.contains("\n/home\n") && text.ends_with("my.host\n"),
        "{text}"
    );
    for kind in ["pid", "mnt", "uts", "ipc", "cgroup"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(
            !text.contains(host.to_str().unwrap()),
            "{kind} is shared: {text}"
        );
    }
}

#[tokio::test]
async fn mounts_extra_files_and_a_read_only_root() {
    let world = World::new("mounts").await;
    let data = world.root.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("f"), "hello\n").unwrap();
    let resolv = world.root.join("resolv");
    std::fs::write(&resolv, "nameserver 127.0.0.11\n").unwrap();
    let script = "
        cat /etc/resolv.conf /data/f; echo new > /data/g
        echo x 2>/dev/null > /ro/f || echo bind-ro
        touch /x 2>/dev/null || echo root-ro
        touch /scratch/x && stat -f -c %T /scratch; stat -c %a /scratch";
    let mut spec = world.spec("a", script);
    spec.read_only_rootfs = true;
    spec.extra_files = vec![ExtraFile {
        source: resolv,
        target: "/etc/resolv.conf".into(),
        read_only: false,
    }];
    let bind = |target: &str, read_only| {
        Mount::Bind(BindMount {
            source: data.clone(),
            target: target.into(),
            read_only,
            ..BindMount::default()
        })
    };
    spec.mounts = vec![
        bind("/data", false),
        bind("/ro", true),
        Mount::Tmpfs(TmpfsMount {
            target: "/scratch".into(),
            size: 1 << 20,
            mode: 0o700,
            read_only: false,
        }),
    ];
    let (_, text) = world.complete(&spec).await;
    let expected = "nameserver 127.0.0.11\nhello\nbind-ro\nroot-ro\ntmpfs\n700\n";
    assert_eq!(text, expected);
    assert_eq!(std::fs::read_to_string(data.join("g")).unwrap(), "new\n");
}

#[tokio::test]
async fn limits_are_visible_in_the_cgroup_and_ulimits_in_the_process() {
    let world = World::new("limits").await;
    let mut spec = world.spec("a", "cat /proc/self/limits; echo end; sleep 1000");
    spec.resources.memory_limit = Some(64 << 20);
    spec.resources.memory_reservation = Some(32 << 20);
    spec.resources.nano_cpus = Some(250_000_000);
    spec.resources.pids_limit = Some(17);
    spec.ulimits = vec![Ulimit {
        name: "nofile".to_owned(),
        soft: 111,
        hard: 222,
    }];
    world.run(&spec).await;
    world.wait_for_line("a", "end").await;
    let path = format!("{}/a", world.cgroup);
    let read = |v1, v2| cgroup_file(&path, v1, v2);
    assert_eq!(
        read(("memory", "memory.limit_in_bytes"), "memory.max"),
        "67108864"
    );
    assert_eq!(
        read(("memory", "memory.soft_limit_in_bytes"), "memory.low"),
        "33554432"
    );
    let quota = read(("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quota == "25000" || quota == "25000 100000", "{quota}");
    assert_eq!(read(("pids", "pids.max"), "pids.max"), "17");
    let output = world.output("a").await;
    let open_files = field(&output, "Max open files");
    assert!(
        open_files.starts_with("111") && open_files.contains("222"),
        "{open_files}"
    );
}

#[tokio::test]
async fn every_process_is_in_the_cgroup2_tree() {
    let world = World::new("v2").await;
    world.run(&world.spec("a", "sleep 1000")).await;
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let path = roots
        .iter()
        .map(|root| format!("{root}/{}/a/cgroup.procs", world.cgroup))
        .find(|path| std::path::Path::new(path).exists())
        .expect("no cgroup2 directory");
    let sleep = ExecSpec {
        args: ["sleep", "1000"].map(str::to_owned).to_vec(),
        ..ExecSpec::default()
    };
    let session = world.runtime.exec("a", &sleep).await.unwrap();
    let listed = std::fs::read_to_string(path).unwrap();
    let listed: Vec<u32> = listed.lines().map(|line| line.parse().unwrap()).collect();
    let init = world.runtime.inspect("a").unwrap().pid;
    assert!(
        listed.contains(&init) && listed.contains(&session.handle.pid()),
        "{listed:?}"
    );
    assert!(!listed.contains(&world.runtime.inspect("a").unwrap().shim_pid));
    // The helper that made the exec may still be on its way out.
    eventually("the command and the exec, and nothing else", || {
        world.runtime.pids("a").unwrap().len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_container_out_of_memory_is_killed_and_says_so() {
    let world = World::new("oom").await;
    let mut spec = world.spec("a", "x=$(yes | head -c 300000000); echo survived");
    spec.resources.memory_limit = Some(32 << 20);
    let (status, text) = world.complete(&spec).await;
    assert!(status.oom_killed, "{status:?} {text}");
    assert_ne!(status.code, 0);
}

#[tokio::test]
async fn the_process_limit_holds() {
    let world = World::new("pids").await;
    let script = "for i in $(seq 1 30); do sleep 1000 & done; echo end";
    let mut spec = world.spec("a", script);
    spec.resources.pids_limit = Some(10);
    let (_, text) = world.complete(&spec).await;
    assert!(text.contains("can't fork"), "{text}");
}

#[tokio::test]
async fn a_refusal_of_the_kernel_tells_its_cause() {
    let world = World::new("cause").await;
    let mut spec = world.spec("a", "true");
    let name = "net.ipv4.no_such_parameter".to_owned();
    spec.netns = Some("/proc/self/ns/net".into());
    spec.sysctls.insert(name, "1".to_owned());
    let error = world.runtime.create(&spec).await.unwrap_err().to_string();
    assert!(
        error.contains("sysctl") || error.contains("No such file"),
        "{error}"
    );
    let mut spec = world.spec("b", "true");
    spec.cwd = "/etc/passwd/x".to_owned();
    let error = world.runtime.create(&spec).await.unwrap_err().to_string();
    assert!(error.contains("working directory"), "{error}");
    let mut spec = world.spec("c", "true");
    spec.netns = Some("/no/such/netns".into());
    let error = world.runtime.create(&spec).await.unwrap_err().to_string();
    assert!(
        error.contains("ENOENT") || error.contains("No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn the_shims_executable_cannot_be_overwritten_from_inside() {
    let world = World::new("exe").await;
    // With an init of ours, process 1 of the container runs the shim's executable.
    let mut spec = world.spec("a", "sleep 1000");
    spec.init = true;
    spec.cap_add = vec!["ALL".to_owned()];
    spec.seccomp_unconfined = true;
    world.run(&spec).await;
    let script = "(printf x 1<>/proc/1/exe) 2>&1; echo code=$?";
    let (_, text) = world.exec("a", &["busybox", "sh", "-c", script]).await;
    assert!(text.contains("code=1"), "{text}");
    // It is busy while it runs; once nothing runs it, the mount it was executed from still protects.
    let info = world.runtime.inspect("a").unwrap();
    for pid in [info.pid, info.shim_pid] {
        let exe = nix::sys::statvfs::statvfs(format!("/proc/{pid}/exe").as_str()).unwrap();
        assert!(exe.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    }
}

#[tokio::test]
async fn the_network_namespace_is_the_one_given() {
    let world = World::new("netns").await;
    let name = format!("rt-{}", std::process::id());
    let ip = |args: &[&str]| {
        let status = std::process::Command::new("ip")
            .args(args)
            .status()
            .unwrap();
        assert!(status.success(), "ip {args:?}");
    };
    ip(&["netns", "add", &name]);
    let mut spec = world.spec(
        "a",
        "ls -l /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_default_ttl",
    );
    spec.netns = Some(format!("/run/netns/{name}").into());
    spec.sysctls
        .insert("net.ipv4.ip_default_ttl".to_owned(), "77".to_owned());
    let result = world.runtime.create(&spec).await;
    let given = {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(format!("/run/netns/{name}"))
            .unwrap()
            .ino()
    };
    ip(&["netns", "del", &name]);
    result.unwrap();
    world.runtime.start("a").await.unwrap();
    world.wait("a").await;
    let text = world.output("a").await;
    assert!(text.contains(&format!("net:[{given}]")), "{text}");
    assert!(text.ends_with("\n77\n"), "{text}");
}
