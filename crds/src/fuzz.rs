//! Fuzz target of files that people write. `./dev fuzz` runs it by coverage, the test below on its corpus in
//! `fuzz/corpus/`.

use crate::{
    load::{Loaded, MAX_FILE_BYTES, chunks},
    parse,
};

/// No document holds up another: each is read as it would be alone. What is wrong is said in so many words.
pub fn documents(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let parts: Vec<&str> = chunks(text).into_iter().map(|(_, part)| part).collect();
    assert_eq!(parts.concat(), text);
    let (loaded, problems) = parse("f.yaml", text);
    let alone: Vec<_> = parts.iter().flat_map(|part| parse("f.yaml", part).0).collect();
    let objects = |loaded: &[Loaded]| loaded.iter().map(|it| it.object.clone()).collect::<Vec<_>>();
    assert_eq!(objects(&loaded), objects(&alone));
    assert!(text.len() <= MAX_FILE_BYTES && loaded.len() <= parts.len());
    assert!(problems.iter().all(|problem| !problem.problem.is_empty() && !problem.remedy.is_empty()));
    let (from_json, _) = parse("f.json", text);
    assert!(from_json.len() <= 1);
}

#[cfg(test)]
mod tests {
    outrigger_replay::replays! { documents: 3_000 }
}
