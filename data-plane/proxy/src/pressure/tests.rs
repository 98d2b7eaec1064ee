use super::*;

/// A folder as /sys/fs/cgroup, for one test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("outrigger-pressure-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        for (file, text) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(root)
    }

    fn read(&self, lines: &str) -> Option<(u64, u64)> {
        let reading = Cgroup::find(lines, &self.0)?.read().unwrap();
        reading.map(|Reading { used, limit }| (used, limit))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const STAT: &str = "anon 500\nfile 400\ninactive_anon 7\nactive_file 100\ninactive_file 300\n";
const STAT_V1: &str = "cache 400\ninactive_file 1\ntotal_cache 400\ntotal_inactive_file 300\n";

#[test]
fn memory_is_that_of_the_own_cgroup_without_what_the_kernel_takes_back() {
    let v2 = |folder: &str, limit: &'static str| {
        vec![
            (format!("{folder}memory.max"), limit),
            (format!("{folder}memory.current"), "1000\n"),
            (format!("{folder}memory.stat"), STAT),
        ]
    };
    let v1 = |folder: &str, limit: &'static str| {
        vec![
            (format!("memory/{folder}memory.limit_in_bytes"), limit),
            (format!("memory/{folder}memory.usage_in_bytes"), "1000\n"),
            (format!("memory/{folder}memory.stat"), STAT_V1),
        ]
    };
    let both = "9:name=systemd:/\n4:memory:/pods/a\n1:cpu,cpuacct:/pods/a\n0::/\n";
    for (name, files, lines, read) in [
        ("its own namespace", v2("", "2000\n"), "0::/\n", Some((700, 2000))),
        ("the machine's", v2("pods/a/", "2000\n"), "0::/pods/a\n", Some((700, 2000))),
        ("a path of the host's", v2("", "2000\n"), "0::/pods/a\n", Some((700, 2000))),
        ("no limit", v2("", "max\n"), "0::/\n", None),
        ("version 1", v1("pods/a/", "2000\n"), both, Some((700, 2000))),
        ("version 1, a path of the host's", v1("", "2000\n"), both, Some((700, 2000))),
        ("version 1, no limit", v1("", "9223372036854771712\n"), both, None),
        ("a root, which has no such files", vec![("cgroup.procs".to_owned(), "1\n")], "0::/\n", None),
        ("nothing", Vec::new(), "", None),
    ] {
        let files: Vec<_> = files.iter().map(|(path, text)| (&**path, *text)).collect();
        let mounted = Mounted::new(&name.replace(' ', "-"), &files);
        assert_eq!(mounted.read(lines), read, "{name}");
    }
}

/// Of a thousand bytes, one look a second; what is used, and how it is then.
fn levels(looks: &[(u64, Level)]) {
    let start = Instant::now();
    let mut watch = Watch { level: Level::Calm, since: start, floor: 0 };
    for (second, (used, level)) in (0..).zip(looks) {
        watch.look(Reading { used: *used, limit: 1000 }, start + Duration::from_secs(second));
        assert_eq!(watch.level, *level, "second {second}: {watch:?}");
    }
}

#[test]
fn it_sheds_until_there_is_clearly_enough_again() {
    use Level::{Calm, Critical, Tight};
    levels(&[(0, Calm), (849, Calm), (850, Tight), (849, Tight), (750, Tight), (749, Calm), (849, Calm), (0, Calm)]);
    levels(&[(849, Calm), (949, Tight), (950, Critical), (760, Critical), (749, Calm), (2000, Critical), (0, Calm)]);
}

#[test]
fn what_doesnt_end_by_itself_is_ended() {
    use Level::{Calm, Critical, Tight};
    let tight = [(860, Tight); 5];
    levels(&[&tight[..], &[(860, Critical), (700, Calm), (860, Tight)]].concat());
}

#[test]
fn nothing_is_shed_for_what_no_connection_holds() {
    use Level::{Calm, Critical, Tight};
    let shed = [[(900, Tight); 5], [(900, Critical); 5]].concat();
    // Then 970, 990 and 950 are the marks, until it is gone.
    let above = [(900, Calm), (969, Calm), (970, Tight), (950, Tight), (949, Calm), (990, Critical), (900, Calm)];
    levels(&[&shed[..], &above, &[(749, Calm), (850, Tight)]].concat());
}

#[test]
fn there_is_no_number_that_it_cant_read() {
    for (used, limit) in [(u64::MAX, u64::MAX / 2), (1, 0), (0, 0), (u64::MAX, 1)] {
        let mut watch = Watch { level: Level::Critical, since: Instant::now(), floor: 0 };
        for second in [0, 10, 20, 30] {
            watch.look(Reading { used, limit }, watch.since + Duration::from_secs(second));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_follows_the_files_and_goes_when_nobody_listens() {
    let limit = [("memory.max", "1000\n"), ("memory.current", "1200\n"), ("memory.stat", STAT)];
    let mounted = Mounted::new("follows", &limit);
    let level = watch::Sender::new(Level::Calm);
    let mut seen = level.subscribe();
    // By a clock that stands still no measure takes too long.
    let following = tokio::spawn(follow(Cgroup::find("0::/\n", &mounted.0).unwrap(), level, Metrics::new()));
    assert_eq!(*seen.wait_for(|level| *level > Level::Calm).await.unwrap(), Level::Tight);
    fs::write(mounted.0.join("memory.current"), "2000\n").unwrap();
    assert_eq!(*seen.wait_for(|level| *level > Level::Tight).await.unwrap(), Level::Critical);
    fs::write(mounted.0.join("memory.current"), "500\n").unwrap();
    assert_eq!(*seen.wait_for(|level| *level < Level::Tight).await.unwrap(), Level::Calm);
    drop(seen);
    following.await.unwrap();
}
