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
fn a_job_that_lacks_a_type_of_its_entity_is_refused_and_names_it() {
    let text = "[entity.item]\ntypes = [\"Item\", \"ItemDeletions\"]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n";
    let entities = Entities::parse(text, "entities.toml").unwrap();
    for jobs in [
        vec![Job::new("Public", ["Item"])],
        vec![Job::new("Public", ["Item"]), Job::new("Deletions", ["ItemDeletions"])],
    ] {
        let told = refused(&jobs, &entities);
        assert!(told.contains("\"Public\": `from` lacks \"ItemDeletions\", a type of entity \"item\""), "{told}");
    }
    assert!(Jobs::compile(&[Job::new("Public", ["Item", "ItemDeletions"])], &entities).is_ok());
}

#[test]
fn a_name_that_xml_cannot_have_is_refused_for_xml_alone() {
    let text =
        "[entity.item]\ntypes = [\"Item\"]\nkey = [\"item id\"]\nversion = { field = \"v\", type = \"integer\" }\n";
    let keyed = Entities::parse(text, "entities.toml").unwrap();
    for format in [Format::Xml, Format::XmlLines] {
        for (job, name) in
            [(Job::new("Public", ["Audit"]).fields(["who", "2nd"]), "2nd"), (Job::new("Public", ["Item"]), "item id")]
        {
            let told = refused(&[job.clone().format(format)], &keyed);
            assert!(told.contains(&format!("{name:?} is no name of an XML element")), "{told}");
            assert!(Jobs::compile(&[job], &keyed).is_ok());
        }
        let attribute = Job::new("Public", ["Audit"]).fields(["@id", "who", "#text"]).format(format);
        assert!(Jobs::compile(&[attribute], &keyed).is_ok());
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
