//! Arbitrary text as `entities.toml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waybill_contracts::Entities;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    match Entities::parse(text, "entities.toml") {
        Ok(entities) => {
            let again = Entities::parse(text, "entities.toml").expect("it was read before");
            assert_eq!(entities, again);
            for entity in entities.0.values() {
                assert!(!entity.key.is_empty() && !entity.types.is_empty(), "{entity:?}");
                let of_type = entities.for_type(&entity.types[0]).expect("it is its own type's");
                assert_eq!(of_type.name, entity.name);
                if let Some(filter) = &entity.filter {
                    let end = filter.text().chars().count();
                    assert!(filter.error(end, "x").line <= 1 + text.lines().count());
                }
            }
        }
        Err(error) => assert!((1..=1 + text.lines().count()).contains(&error.line), "{error}"),
    }
});
