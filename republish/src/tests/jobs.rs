//! What cannot be republished is refused when it is configured.

use waybill_contracts::{Entities, Format};

use super::rule::entities;
use crate::{Job, Jobs};

fn refused(jobs: &[Job], entities: &Entities) -> String {
    Jobs::compile(jobs, entities).unwrap_err().to_string()
}

#[test]
fn a_projection_that_leaves_out_key_version_or_reference_is_refused_by_name() {
    for (fields, said) in [
        (["v", "shop"], "leaves out \"id\", which is of the key of entity \"item\""),
        (["id", "shop"], "leaves out \"v\", which is the version of entity \"item\""),
        (["id", "v"], "leaves out \"shop\", which is of a reference of entity \"item\""),
    ] {
        let told = refused(&[Job::new("Public", ["Item"]).fields(fields)], &entities());
        assert!(told.starts_with("the republishing as \"Public\": ") && told.contains(said), "{told}");
    }
    assert!(Jobs::compile(&[Job::new("Public", ["Item"]).fields(["id", "v", "shop"])], &entities()).is_ok());
}

#[test]
fn an_entity_without_a_declared_version_is_refused_with_the_reason() {
    let text = "[entity.item]\ntypes = [\"Item\"]\nkey = [\"id\"]\n";
    let told = refused(&[Job::new("Public", ["Item"])], &Entities::parse(text, "entities.toml").unwrap());
    assert!(told.contains("have other places") && told.contains("Declare a `version`"), "{told}");
}

#[test]
fn what_is_no_type_or_leads_in_a_circle_or_to_two_outputs_is_refused() {
    for (jobs, said) in [
        (vec![Job::new("A b", ["Item"])], "letters, digits"),
        (vec![Job::new("Public", Vec::<String>::new())], "name them in `from`"),
        (vec![Job::new("Public", ["It*"])], "a star stands for nothing"),
        (vec![Job::new("Waybill.Manifest", ["Item"])], "the publisher's own type"),
        (vec![Job::new("Item", ["Item"])], "would be republished again"),
        (vec![Job::new("A", ["B"]), Job::new("B", ["C"])], "would be republished again, as \"A\""),
        (vec![Job::new("A", ["Item"]), Job::new("B", ["Item"])], "\"Item\" becomes \"A\" already"),
        (vec![Job::new("A", ["B"]), Job::new("A", ["C"])], "is there twice"),
        (vec![Job::new("A", ["B"]).format(Format::Csv)], "CSV needs its columns"),
        (vec![Job::new("A", ["B"]).fields(["x", "x"])], "each its own"),
        (vec![Job::new("A", ["B"]).fields(["x", "_deleted"])], "is there by itself"),
    ] {
        let told = refused(&jobs, &entities());
        assert!(told.contains(said), "{told}");
    }
}

#[test]
fn a_filter_that_is_wrong_says_where_and_one_is_enough() {
    let error = Jobs::compile(&[Job::new("Public", ["Item"]).filter("row.price > \"x\"")], &entities()).unwrap_err();
    assert_eq!(error.filter_at, Some(10), "{error}");
    let text = "[entity.item]\ntypes = [\"Item\"]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\nwhere = \"row.id > 1\"\n\
                columns = { id = \"integer\" }\n";
    let filtered = Entities::parse(text, "entities.toml").unwrap();
    let told = refused(&[Job::new("Public", ["Item"]).filter("row.id > 2")], &filtered);
    assert!(told.contains("leave one of them out"), "{told}");
    assert!(Jobs::compile(&[Job::new("Public", ["Item"])], &filtered).is_ok(), "the entity's counts");
}
