use std::fs;

use outrigger_wire::names::type_url;
use tempfile::TempDir;

use super::*;

/// A watched folder; it is watched until it is dropped.
struct Watched {
    dir: TempDir,
    snapshots: watch::Receiver<Arc<MeshSnapshot>>,
    problems: watch::Receiver<Vec<Problem>>,
    task: tokio::task::JoinHandle<Result<(), FolderError>>,
}

impl Watched {
    /// With these files of `conf` to begin with.
    fn new(files: &[(&str, String)]) -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("conf")).unwrap();
        let (out, snapshots) = watch::channel(Arc::default());
        let (found, problems) = watch::channel(Vec::new());
        let settings = Settings { trust_domain: "cluster.local".to_owned(), ..Settings::default() };
        for (name, text) in files {
            fs::write(dir.path().join("conf").join(name), text).unwrap();
        }
        let task = tokio::spawn(watch(dir.path().join("conf"), settings, out, found));
        Self { dir, snapshots, problems, task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("conf").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Waits until exactly these services of namespace `a` are served.
    async fn serves(&mut self, names: &[&str]) -> Arc<MeshSnapshot> {
        let served = |snapshot: &Arc<MeshSnapshot>| {
            snapshot.types.get(type_url::SERVICE).is_some_and(|set| {
                let wanted = names.iter().map(|name| format!("a/{name}"));
                set.resources.keys().map(|name| name.to_string()).eq(wanted)
            })
        };
        self.snapshots.wait_for(served).await.unwrap().clone()
    }

    /// Waits until these are all problems, each given by a part of its text.
    async fn reports(&mut self, parts: &[&str]) {
        let same = |problems: &Vec<Problem>| {
            problems.len() == parts.len() && problems.iter().zip(parts).all(|(p, part)| p.to_string().contains(part))
        };
        self.problems.wait_for(same).await.unwrap();
    }

    /// Whether nothing was published since it was last looked at.
    fn unchanged(&mut self) -> bool {
        !self.snapshots.has_changed().unwrap()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn service(name: &str) -> String {
    with_port(name, 80)
}

fn with_port(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut folder = Watched::new(&[("1.yaml", service("one") + &service("two"))]);
    let first = folder.serves(&["one", "two"]).await;
    folder.write("2.yml", &service("three"));
    let second = folder.serves(&["one", "three", "two"]).await;
    assert_eq!(second.generation, first.generation + 1);
    folder.write("1.yaml", &service("two"));
    folder.serves(&["three", "two"]).await;
    fs::remove_file(folder.path("2.yml")).unwrap();
    folder.serves(&["two"]).await;
    folder.write("notes.txt", "not ours");
    folder.write(".3.yaml", &service("hidden"));
    fs::rename(folder.path(".3.yaml"), folder.path("3.yaml")).unwrap();
    folder.serves(&["hidden", "two"]).await;
    folder.reports(&[]).await;
}

#[tokio::test]
async fn rewrites_of_equal_length_are_seen() {
    let mut folder = Watched::new(&[("1.yaml", with_port("one", 1000))]);
    let mut last = folder.serves(&["one"]).await;
    for port in 1001..1020 {
        folder.write("1.yaml", &with_port("one", port));
        let before = last.generation;
        last = folder.snapshots.wait_for(|snapshot| snapshot.generation > before).await.unwrap().clone();
        let body = &last.types[type_url::SERVICE].resources["a/one"].body;
        let service: outrigger_wire::proto::config::Service = prost::Message::decode(body.clone()).unwrap();
        assert_eq!(service.ports[0].port, u32::from(port));
    }
}

#[tokio::test]
async fn a_bad_file_leaves_its_last_good_content() {
    let mut folder = Watched::new(&[("1.yaml", service("one")), ("2.yaml", service("two"))]);
    folder.serves(&["one", "two"]).await;
    for (text, problem) in [
        ("kind: [", "1.yaml"),
        ("apiVersion: v1\nkind: Serwice\nmetadata: {name: x}\n", "Service"),
        ("", "empty"),
        ("\u{0}\u{1}", "1.yaml"),
    ] {
        folder.write("1.yaml", text);
        folder.reports(&[problem]).await;
        assert!(folder.unchanged(), "{text:?} changed what is served");
    }
    fs::write(folder.path("1.yaml"), [0xff, 0xfe]).unwrap();
    folder.reports(&["UTF-8"]).await;
    // A bad file doesn't hold up others.
    folder.write("2.yaml", &service("three"));
    folder.serves(&["one", "three"]).await;
    folder.write("1.yaml", &service("four"));
    folder.serves(&["four", "three"]).await;
    folder.reports(&[]).await;
}

#[tokio::test]
async fn of_one_name_the_first_file_counts() {
    let mut folder = Watched::new(&[("1.yaml", with_port("one", 1)), ("2.yaml", with_port("one", 2))]);
    let snapshot = folder.serves(&["one"]).await;
    folder.reports(&["2.yaml: Service/a/one"]).await;
    let first = snapshot.types[type_url::SERVICE].resources["a/one"].version.clone();
    fs::remove_file(folder.path("1.yaml")).unwrap();
    folder.reports(&[]).await;
    let second = folder.serves(&["one"]).await.types[type_url::SERVICE].resources["a/one"].version.clone();
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_folder_that_vanishes_changes_nothing() {
    let mut folder = Watched::new(&[("1.yaml", service("one"))]);
    folder.serves(&["one"]).await;
    let aside = folder.dir.path().join("aside");
    fs::rename(folder.path(""), &aside).unwrap();
    folder.reports(&["conf"]).await;
    assert!(folder.unchanged());
    // It comes back with other content, and is watched as before.
    fs::create_dir(folder.path("")).unwrap();
    folder.write("2.yaml", &service("two"));
    folder.serves(&["two"]).await;
    folder.write("2.yaml", &service("three"));
    folder.serves(&["three"]).await;
    fs::remove_file(folder.path("2.yaml")).unwrap();
    folder.reports(&["no files"]).await;
    assert!(folder.unchanged());
}

#[tokio::test]
async fn folders_within_are_read_and_watched() {
    let mut folder = Watched::new(&[("1.yaml", service("one"))]);
    folder.serves(&["one"]).await;
    fs::create_dir_all(folder.path("sub/deep")).unwrap();
    folder.write("sub/deep/2.yaml", &service("two"));
    folder.serves(&["one", "two"]).await;
    folder.write("sub/deep/2.yaml", &service("three"));
    folder.serves(&["one", "three"]).await;
    fs::rename(folder.path("sub"), folder.dir.path().join("aside")).unwrap();
    folder.serves(&["one"]).await;
}

#[tokio::test]
async fn a_config_map_that_is_swapped_is_seen() {
    use std::os::unix::fs::symlink;
    let mut folder = Watched::new(&[]);
    for (name, service_name) in [("..v1", "one"), ("..v2", "two")] {
        fs::create_dir(folder.path(name)).unwrap();
        folder.write(&format!("{name}/1.yaml"), &service(service_name));
    }
    symlink("..v1", folder.path("..data")).unwrap();
    symlink("..data/1.yaml", folder.path("1.yaml")).unwrap();
    folder.serves(&["one"]).await;
    symlink("..v2", folder.path("..next")).unwrap();
    fs::rename(folder.path("..next"), folder.path("..data")).unwrap();
    folder.serves(&["two"]).await;
}

#[tokio::test]
async fn findings_name_file_and_document() {
    let route = "---\napiVersion: outrigger.dev/v1alpha1\nkind: MeshRoute\nmetadata: {name: r, namespace: a}\n\
        spec: {parentRefs: [{name: one}], rules: [{backendRefs: [{name: none, port: 80}]}]}\n";
    let mut folder = Watched::new(&[("1.yaml", service("one") + route)]);
    folder.serves(&["one"]).await;
    folder.reports(&["service a/none doesn't exist"]).await;
    let problem = folder.problems.borrow()[0].clone();
    assert_eq!((problem.file.as_ref(), problem.document), ("1.yaml", 1));
    assert_eq!((problem.object.as_str(), problem.field.as_str()), ("MeshRoute/a/r", "spec.rules[0].backendRefs[0]"));
}
