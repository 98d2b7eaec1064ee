//! One pod's proxies, one after the other: patches, looks, and goes back. What a look means is decided in `step`.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::future::join;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use outrigger_wire::names::{INJECTED_ANNOTATION, containers};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    callers::{Asked, metrics},
    errors::Counts,
    plan::{Part, image_of, is_injected},
    report::{Ended, Outcome},
    step::{Container, Depth, Next, Seen, Step, Terms, well},
};
use crate::{
    cluster::{self, Cluster},
    pods, status,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Others write to a pod as well; so often it is read anew.
const TRIES: usize = 5;

/// A pod whose proxies are to be replaced.
pub(super) struct Work<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) terms: Terms,
    /// As it was when the plan was made.
    pub(super) pod: &'a Pod,
    pub(super) callers: Asked,
    pub(super) parts: &'a [Part],
    pub(super) guard_stays: Option<&'a str>,
    pub(super) image: &'a str,
    pub(super) say: &'a dyn Fn(&str),
    /// What has been asked of Kubernetes so far, for whoever breaks off.
    pub(super) patched: Mutex<Vec<Part>>,
}

/// How a part's replacement ended, if not well.
enum Trouble {
    Failed(String),
    /// It wasn't well before, so it couldn't be told whether it is afterwards.
    Unfit(String),
    /// The pod itself has gone.
    Gone,
}

// === impl Work ===

impl Work<'_> {
    pub(super) async fn run(&self) -> Outcome {
        let mut stays = self.guard_stays.map(str::to_owned);
        for part in self.parts {
            if *part == Part::Guard
                && let Some(why) = self.carries_on().await
            {
                stays = Some(why);
                break;
            }
            match self.replace(*part).await {
                Ok(said) => (self.say)(&format!("{} runs {}: {said}", part.name(), self.image)),
                Err(Trouble::Gone) => return Outcome::of(Ended::Gone, "it has gone meanwhile"),
                Err(Trouble::Failed(why)) => return self.back(*part, &why).await,
                Err(Trouble::Unfit(why)) if self.patched().is_empty() => return Outcome::of(Ended::Left, why),
                Err(Trouble::Unfit(why)) => {
                    stays = Some(why);
                    break;
                }
            }
        }
        match stays {
            Some(why) => Outcome::of(Ended::Partly, format!("its guard stays at {}: {why}", self.old(Part::Guard))),
            None => match self.record().await {
                Ok(()) => Outcome::of(Ended::Upgraded, ""),
                Err(error) => Outcome::of(
                    Ended::Partly,
                    format!("sidecar and guard run {}, which couldn't be written to the pod: {error:#}", self.image),
                ),
            },
        }
    }

    /// Says what is left behind.
    pub(super) async fn broken_off(&self) -> Outcome {
        let detail = format!("{}. Versions work side by side: the same command goes on later", self.state().await);
        Outcome::of(Ended::Interrupted, detail)
    }

    async fn state(&self) -> String {
        let now = match cluster::found(self.pods().get(pods::name(self.pod)).await) {
            Ok(Some(now)) if now.metadata.uid == self.pod.metadata.uid => now,
            Ok(_) => return "the pod has gone".into(),
            Err(error) => return format!("it can't be read any more: {error:#}"),
        };
        let images = Part::ALL.map(|part| {
            let image = image_of(&now, part.container()).unwrap_or("nothing");
            format!("its {} is to run {image}", part.name())
        });
        let watched = if self.patched().is_empty() { "" } else { "; whether it does well was not seen to the end" };
        format!("{}{watched}", images.join(", "))
    }

    fn pods(&self) -> Api<Pod> {
        self.cluster.of(pods::namespace(self.pod))
    }

    fn patched(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.patched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn old(&self, part: Part) -> &str {
        image_of(self.pod, part.container()).unwrap_or_default()
    }

    /// To the new image, until it has been watched for long enough; says how it did.
    async fn replace(&self, part: Part) -> Result<String, Trouble> {
        let before = self.look(part, Depth::All).await;
        if before.gone {
            return Err(Trouble::Gone);
        }
        let fit =
            well(&before).and_then(|()| before.counts.as_ref().ok_or("its metrics can't be read".into()).map(drop));
        fit.map_err(|why| Trouble::Unfit(format!("as it is, it isn't well: {why}")))?;
        let started = Instant::now();
        self.patched().push(part);
        let changes = [(part.container(), self.old(part), self.image)];
        self.patch(&changes, None).await.map_err(|error| Trouble::Failed(format!("{error:#}")))?;
        let counted = self.follow(part, Step::new(part, &before, self.terms, started)).await?;
        Ok(format!(
            "acknowledged and watched for {} s, {} of {} failed",
            self.terms.watch.as_secs(),
            counted.failures(),
            counted.tried
        ))
    }

    async fn follow(&self, part: Part, mut step: Step) -> Result<Counts, Trouble> {
        loop {
            sleep(PAUSE).await;
            let seen = self.look(part, step.depth(Instant::now())).await;
            match step.on(Instant::now(), &seen) {
                Next::Look(_) => {}
                Next::Done(counted) => return Ok(counted),
                Next::Failed(why) => return Err(Trouble::Failed(why)),
                Next::Gone => return Err(Trouble::Gone),
            }
        }
    }

    /// All that was changed, the last first.
    async fn back(&self, part: Part, why: &str) -> Outcome {
        let seen = format!("its {} with {}: {why}", part.name(), self.image);
        (self.say)(&format!("{seen}; going back"));
        let changed = self.patched().clone();
        for part in changed.into_iter().rev() {
            let old = self.old(part);
            if let Err(why) = self.restore(part).await {
                return match why {
                    Trouble::Gone => Outcome::of(Ended::Gone, format!("it has gone meanwhile; {seen}")),
                    Trouble::Failed(why) | Trouble::Unfit(why) => Outcome::of(
                        Ended::Stuck,
                        format!("{seen}. Back at {old}, its {} isn't well either: {why}", part.name()),
                    ),
                };
            }
        }
        Outcome::of(Ended::RolledBack, format!("{seen}. It runs {} again and is well", self.old(part)))
    }

    async fn restore(&self, part: Part) -> Result<(), Trouble> {
        let before = self.look(part, Depth::Pod).await;
        if before.gone {
            return Err(Trouble::Gone);
        }
        let started = Instant::now();
        let change = [(part.container(), self.image, self.old(part))];
        match self.patch(&change, None).await {
            Ok(true) => self.follow(part, Step::back(part, &before, self.terms, started)).await.map(drop),
            // The change was never made.
            Ok(false) => Ok(()),
            Err(error) => Err(Trouble::Failed(format!("{error:#}"))),
        }
    }

    /// Waits until the guard carries nothing that began while the sidecar was away: it would break with the guard. Says
    /// so if that doesn't end.
    async fn carries_on(&self) -> Option<String> {
        let until = Instant::now() + self.terms.patience;
        loop {
            let dump = self.dump(Part::Guard).await;
            let carried = dump.as_ref().map(|dump| dump["guard"]["carried"]["now"].as_u64());
            match carried {
                Ok(Some(0)) => return None,
                _ if Instant::now() < until => sleep(PAUSE).await,
                Ok(Some(carried)) => {
                    return Some(format!(
                        "it still carries {carried} connections, which would break with it; the same command goes on with it later"
                    ));
                }
                Ok(None) => return Some("it doesn't say what it carries".into()),
                Err(error) => return Some(format!("it can't be asked what it carries: {error:#}")),
            }
        }
    }

    /// What only ran once, and the injector's word: for people, and for when the pod's sandbox is made anew.
    async fn record(&self) -> Result<()> {
        let version = self.dump(Part::Guard).await?["version"].as_str().map(str::to_owned);
        let old = image_of(self.pod, containers::REDIRECT).unwrap_or_default();
        let changes = [(containers::REDIRECT, old, self.image)];
        self.patch(&changes, version.as_deref()).await.map(drop)
    }

    /// Changes images, if the pod is the one that was looked at and nobody else has changed them. `false`: they are so
    /// already.
    async fn patch(&self, changes: &[(&str, &str, &str)], version: Option<&str>) -> Result<bool> {
        let (api, name) = (self.pods(), pods::name(self.pod));
        for _ in 0..TRIES {
            let pod = cluster::found(api.get(name).await)?.context("it has gone meanwhile")?;
            let Some(patch) = patch(self.pod, &pod, changes, version)? else { return Ok(false) };
            match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => return Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => bail!("the image can't be changed: {}", cluster::told(&error)),
            }
        }
        bail!("the pod is changed by others again and again")
    }

    async fn look(&self, part: Part, depth: Depth) -> Seen {
        let pod = match cluster::found(self.pods().get(pods::name(self.pod)).await) {
            Ok(Some(pod)) => pod,
            Ok(None) => return Seen { gone: true, ..Seen::default() },
            Err(error) => return Seen { unseen: Some(format!("{error:#}")), ..Seen::default() },
        };
        let gone = pod.metadata.uid != self.pod.metadata.uid || !pods::is_running(&pod);
        let mut seen = Seen { gone, container: container(&pod, part), ready: pods::is_ready(&pod), ..Seen::default() };
        if matches!(depth, Depth::Proxies | Depth::All)
            && let Ok(Some(of_pod)) = status::of_pod(self.cluster, &pod).await
        {
            let own = of_pod.dumps.iter().find(|(name, _)| *name == part.name());
            seen.connected = own.is_some_and(|(_, dump)| {
                dump.as_ref().is_ok_and(|dump| dump["status"]["connected"].as_bool() == Some(true))
            });
            seen.proxy = Some(of_pod.proxy);
        }
        if matches!(depth, Depth::Errors | Depth::All) {
            let counts = async { Some([self.counts(Part::Sidecar).await?, self.counts(Part::Guard).await?]) };
            (seen.counts, seen.callers) = join(counts, self.callers.ask(self.cluster)).await;
        }
        seen
    }

    async fn counts(&self, part: Part) -> Option<Counts> {
        metrics(self.cluster, self.pod, part).await.map(|page| Counts::read(&page))
    }

    async fn dump(&self, part: Part) -> Result<Value> {
        let (namespace, name) = (pods::namespace(self.pod), pods::name(self.pod));
        self.cluster.get(namespace, name, part.admin(), "/config_dump").await?.json()
    }
}

/// From the pod as it is now: the API server refuses it if that has changed meanwhile. `None`: nothing is to be done.
///
/// # Errors
/// If it isn't the pod that was meant, or somebody else has changed an image.
fn patch(meant: &Pod, now: &Pod, changes: &[(&str, &str, &str)], version: Option<&str>) -> Result<Option<Value>> {
    if now.metadata.uid != meant.metadata.uid || !is_injected(now) {
        return Err(anyhow!("another pod has its name by now"));
    }
    let mut images = Vec::new();
    for (container, from, to) in changes {
        match image_of(now, container) {
            Some(has) if has == *to => {}
            Some(has) if has == *from => images.push(json!({ "name": container, "image": to })),
            has => bail!("somebody else has changed the image of {container} to {}", has.unwrap_or("nothing")),
        }
    }
    let version = version.filter(|version| pods::annotation(now, INJECTED_ANNOTATION) != Some(version));
    if images.is_empty() && version.is_none() {
        return Ok(None);
    }
    let mut metadata = json!({ "resourceVersion": now.metadata.resource_version });
    if let Some(version) = version {
        metadata["annotations"] = json!({ INJECTED_ANNOTATION: version });
    }
    let mut patch = json!({ "metadata": metadata });
    if !images.is_empty() {
        patch["spec"] = json!({ "initContainers": images });
    }
    Ok(Some(patch))
}

fn container(pod: &Pod, part: Part) -> Container {
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_ref());
    let Some(status) = statuses.into_iter().flatten().find(|status| status.name == part.container()) else {
        return Container::default();
    };
    let state = status.state.clone().unwrap_or_default();
    let waiting =
        state.waiting.map(|waiting| (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default()));
    let started = state.running.is_some() && status.started != Some(false);
    Container { running: status.container_id.clone().filter(|_| started), waiting, ended: ended(status) }
}

/// How its last process ended.
fn ended(status: &ContainerStatus) -> Option<String> {
    let states = [&status.state, &status.last_state];
    let terminated = states.into_iter().find_map(|state| state.as_ref()?.terminated.as_ref())?;
    let reason = terminated.reason.as_deref().unwrap_or("ended");
    // The end of its log, which may be long.
    let message = terminated.message.as_deref().unwrap_or_default().trim();
    let last = message.lines().next_back().map(|line| format!(": {line}")).unwrap_or_default();
    Some(format!("{reason}, exit code {}{last}", terminated.exit_code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, image: &str, version: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "front", "uid": uid, "resourceVersion": "7", "annotations": { "outrigger.dev/injected": version } },
            "spec": {
                "containers": [],
                "initContainers": [
                    { "name": "outrigger-guard", "image": "outrigger:1" }, { "name": "outrigger-sidecar", "image": image },
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_patch_changes_what_was_meant_and_only_from_what_it_was() {
        let meant = pod("1", "outrigger:1", "1");
        let change = [("outrigger-sidecar", "outrigger:1", "outrigger:2")];
        let made = |now: &Pod, version| patch(&meant, now, &change, version).map_err(|error| error.to_string());
        let images = json!([{ "name": "outrigger-sidecar", "image": "outrigger:2" }]);
        assert_eq!(
            made(&pod("1", "outrigger:1", "1"), None),
            Ok(Some(json!({ "metadata": { "resourceVersion": "7" }, "spec": { "initContainers": images } })))
        );
        assert_eq!(made(&pod("1", "outrigger:2", "1"), None), Ok(None));
        let annotated = json!({ "resourceVersion": "7", "annotations": { "outrigger.dev/injected": "2" } });
        assert_eq!(made(&pod("1", "outrigger:2", "1"), Some("2")), Ok(Some(json!({ "metadata": annotated }))));
        assert_eq!(made(&pod("1", "outrigger:2", "2"), Some("2")), Ok(None));
        assert_eq!(made(&pod("2", "outrigger:1", "1"), None), Err("another pod has its name by now".into()));
        assert_eq!(
            made(&pod("1", "outrigger:3", "1"), None),
            Err("somebody else has changed the image of outrigger-sidecar to outrigger:3".into())
        );
        let mut foreign = pod("1", "outrigger:1", "1");
        foreign.metadata.annotations = None;
        assert!(made(&foreign, None).is_err());
    }

    #[test]
    fn what_the_kubelet_says_of_a_container() {
        let of = |status: Value| {
            let mut pod = pod("1", "outrigger:1", "1");
            let status = json!({ "initContainerStatuses": [status] });
            pod.status = Some(serde_json::from_value(status).unwrap());
            container(&pod, Part::Sidecar)
        };
        let base = json!({ "name": "outrigger-sidecar", "image": "", "imageID": "", "ready": true, "restartCount": 1, "containerID": "c://1" });
        let with = |more: Value| {
            let mut status = base.clone();
            status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            of(status)
        };
        let running = json!({ "running": {} });
        assert_eq!(with(json!({ "state": running, "started": true })).running.as_deref(), Some("c://1"));
        assert_eq!(with(json!({ "state": running, "started": false })).running, None);
        let waiting = with(json!({
            "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off" } },
            "lastState": { "terminated": { "reason": "Error", "exitCode": 2, "message": "a\nno such flag\n" } },
        }));
        let wanted = Container {
            running: None,
            waiting: Some(("CrashLoopBackOff".into(), "back-off".into())),
            ended: Some("Error, exit code 2: no such flag".into()),
        };
        assert_eq!(waiting, wanted);
        assert_eq!(
            of(json!({ "name": "other", "image": "", "imageID": "", "ready": true, "restartCount": 0 })),
            Container::default()
        );
    }
}
