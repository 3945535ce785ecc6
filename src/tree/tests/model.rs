//! Random sequences against a map of keys, with a time to live of 0: every answer is current.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::tree::is_presentable;

#[derive(Clone, Debug)]
enum Op {
    Put(String),
    Delete(String),
    Pass(u64),
    Lookup(String, String),
    ReadDir(String),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || "[ab]([-./]?[ab]){0,3}";
    let dir = || "([ab]/){0,2}";
    prop_oneof![
        3 => key().prop_map(Op::Put),
        2 => key().prop_map(Op::Delete),
        1 => (0_u64..3_000).prop_map(Op::Pass),
        4 => (dir(), "[ab]([-.][ab])?").prop_map(|(dir, name)| Op::Lookup(dir, name)),
        2 => dir().prop_map(Op::ReadDir),
    ]
}

#[derive(Default)]
struct Model(BTreeMap<String, u64>);

impl Model {
    fn lookup(&self, key: &str) -> String {
        let below = format!("{key}/");
        if self.0.range(below.clone()..).next().is_some_and(|(next, _)| next.starts_with(&below)) {
            return "dir".to_owned();
        }
        self.0.get(key).map_or("absent".to_owned(), |size| format!("file {size}"))
    }

    /// In directory order; `None` when there is no such directory.
    fn readdir(&self, dir: &str) -> Option<Vec<String>> {
        let below: Vec<&str> = self.0.keys().filter_map(|key| key.strip_prefix(dir)).collect();
        if below.is_empty() && !dir.is_empty() {
            return None;
        }
        let names: BTreeSet<String> = below
            .iter()
            .map(|rest| rest.split_once('/').map_or(*rest, |(name, _)| name))
            .filter(|name| is_presentable(name))
            .map(|name| format!("{name}/"))
            .collect();
        let show = |slashed: String| {
            let name = slashed.trim_end_matches('/');
            match self.lookup(&format!("{dir}{name}")).as_str() {
                "dir" => slashed,
                _ => name.to_owned(),
            }
        };
        Some(names.into_iter().map(show).collect())
    }
}

async fn run(ops: Vec<Op>, page_keys: u16) {
    let world = World::with(&[], MetadataTtl::Fixed(Ttl::For(Duration::ZERO)), Duration::ZERO);
    world.store.set_page_keys(page_keys);
    let mut model = Model::default();
    for (step, op) in ops.into_iter().enumerate() {
        match op {
            Op::Put(key) => {
                let bytes = vec![0; step];
                world.store.put(&key, bytes);
                model.0.insert(key, step as u64);
            }
            Op::Delete(key) => {
                world.store.delete(&key);
                model.0.remove(&key);
            }
            Op::Pass(ms) => pass(ms).await,
            Op::Lookup(dir, name) => {
                let key = format!("{dir}{name}");
                assert_eq!(world.lookup(&key).await, model.lookup(&key), "step {step}: {key}");
            }
            Op::ReadDir(dir) => {
                let names = world.readdir(&dir).await.ok();
                assert_eq!(names, model.readdir(&dir), "step {step}: {dir:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn with_a_time_to_live_of_0_every_answer_is_current(
        ops in prop::collection::vec(op(), 1..60), page_keys in 1_u16..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let run = runtime.spawn(run(ops, page_keys));
        runtime.block_on(run).map_err(|err| TestCaseError::fail(err.to_string()))?;
    }
}
