//! What a pod's owner sets by annotation, over the injector's own settings.

use outrigger_crds::load::closest;
use outrigger_wire::names::{ANNOTATION_PREFIX, INJECTED_ANNOTATION, MODE_LABEL};

use crate::{
    config::{self, AccessLog, ContainerResources, InjectorConfig, check_resources},
    pod::Pod,
    refusal::Problems,
};

/// All that may stand behind the prefix, apart from the mode and the injector's own word.
const KNOWN: [&str; 16] = [
    "skip-inbound-ports",
    "skip-outbound-ports",
    "skip-outbound-cidrs",
    "workers",
    "access-log",
    "log",
    "drain-seconds",
    "departure-seconds",
    "sidecar-cpu-request",
    "sidecar-cpu-limit",
    "sidecar-memory-request",
    "sidecar-memory-limit",
    "guard-cpu-request",
    "guard-cpu-limit",
    "guard-memory-request",
    "guard-memory-limit",
];

/// Reads the pod's annotations into `settings`.
pub(crate) fn read(pod: Pod<'_>, settings: &mut InjectorConfig, problems: &mut Problems) {
    let Some(annotations) = pod.map("annotations") else { return };
    let mut resources = [false, false];
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix(ANNOTATION_PREFIX) else { continue };
        if [MODE_LABEL, INJECTED_ANNOTATION].contains(&key.as_str()) {
            continue;
        }
        // The API server knows only strings; files may have anything.
        let Some(text) = value.as_str() else {
            problems.add(field(name), "it must be a string", "put it in quotes");
            continue;
        };
        resources[0] |= name.starts_with("sidecar-");
        resources[1] |= name.starts_with("guard-");
        if let Err((problem, remedy)) = set(settings, name, text) {
            problems.add(field(name), problem, remedy);
        }
    }
    for (name, container, set) in
        [("sidecar", &settings.resources.sidecar, resources[0]), ("guard", &settings.resources.guard, resources[1])]
    {
        if set {
            check_resources(container, problems, |kind, amount| field(&format!("{name}-{amount}-{kind}")));
        }
    }
}

fn field(name: &str) -> String {
    format!("metadata.annotations[\"{ANNOTATION_PREFIX}{name}\"]")
}

fn set(settings: &mut InjectorConfig, name: &str, text: &str) -> Result<(), (String, String)> {
    let own = |(problem, remedy): (String, &str)| (problem, remedy.to_owned());
    let text = text.trim();
    match name {
        "skip-inbound-ports" => extend(&mut settings.skip_inbound_ports, text, config::port).map_err(own),
        "skip-outbound-ports" => extend(&mut settings.skip_outbound_ports, text, config::port).map_err(own),
        "skip-outbound-cidrs" => extend(&mut settings.skip_outbound_cidrs, text, config::cidr).map_err(own),
        "workers" => config::workers(text).map(|workers| settings.workers = workers).map_err(own),
        "log" => config::log(text).map(|log| settings.log = log).map_err(own),
        "drain-seconds" => config::seconds(text).map(|seconds| settings.drain_seconds = seconds).map_err(own),
        "departure-seconds" => config::departure(text).map(|seconds| settings.departure_seconds = seconds).map_err(own),
        "access-log" => match AccessLog::parse(text) {
            Some(format) => {
                settings.access_log = format;
                Ok(())
            }
            None => Err((format!("{text:?} is no access log"), format!("write {}", AccessLog::NAMES.join(", ")))),
        },
        _ => match amount(settings, name) {
            Some(amount) => {
                // Taken away by "", as in the injector's file.
                *amount = Some(text.to_owned()).filter(|text| !text.is_empty());
                Ok(())
            }
            None => Err(("unknown annotation".to_owned(), suggestion(name))),
        },
    }
}

/// The setting that `sidecar-cpu-request` and the like name.
fn amount<'a>(settings: &'a mut InjectorConfig, name: &str) -> Option<&'a mut Option<String>> {
    if !KNOWN.contains(&name) {
        return None;
    }
    let mut parts = name.split('-');
    let container: &mut ContainerResources = match parts.next()? {
        "sidecar" => &mut settings.resources.sidecar,
        "guard" => &mut settings.resources.guard,
        _ => return None,
    };
    let (resource, kind) = (parts.next()?, parts.next()?);
    let amounts = if kind == "request" { &mut container.requests } else { &mut container.limits };
    Some(if resource == "cpu" { &mut amounts.cpu } else { &mut amounts.memory })
}

/// Adds the entries of a comma-separated list; those that are there already aren't repeated.
fn extend<T: PartialEq>(
    list: &mut Vec<T>,
    text: &str,
    parse: impl Fn(&str) -> Result<T, (String, &'static str)>,
) -> Result<(), (String, &'static str)> {
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let entry = parse(entry)?;
        if !list.contains(&entry) {
            list.push(entry);
        }
    }
    Ok(())
}

fn suggestion(name: &str) -> String {
    let known = KNOWN.into_iter().chain(["mode"]);
    match closest(name, known.clone()) {
        Some(meant) => format!("did you mean {ANNOTATION_PREFIX}{meant}?"),
        None => format!("known are {}", known.collect::<Vec<_>>().join(", ")),
    }
}
