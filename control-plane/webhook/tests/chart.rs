//! The injector's file as the chart renders it is one that the injector takes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use outrigger_webhook::InjectorConfig;
use serde::Deserialize;
use serde_json::Value;

#[test]
fn the_charts_settings_are_understood() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/outrigger/tests");
    let mut read = 0;
    for case in fs::read_dir(cases).unwrap() {
        let case = case.unwrap().path();
        let Ok(text) = fs::read_to_string(case.join("out.yaml")) else { continue };
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).unwrap();
            let Some(text) = object["data"]["injector.yaml"].as_str() else { continue };
            let config = InjectorConfig::from_yaml(text).unwrap_or_else(|error| panic!("{}: {error}", case.display()));
            if case.ends_with("default") {
                // The chart alone knows the registry and the cluster's domain.
                let (image, controller) = (config.image.clone(), config.controller.clone());
                let expected = InjectorConfig { image, controller, ..InjectorConfig::default() };
                assert_eq!(config, expected, "two sets of defaults");
            }
            read += 1;
        }
    }
    assert!(read > 0, "no injector.yaml in the chart's tests");
}
