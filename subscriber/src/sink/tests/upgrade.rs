//! Databases that earlier versions left, as golden files: they open, and what was begun there goes on.

use super::World;
use crate::{
    FileKey,
    sink::{Applied, Progress, Sink},
};

/// As it was when the golden files were made.
const SHOP: &str = r#"
    [entity.item]
    types = ["ItemChanges"]
    key = ["ItemID"]
    version = { field = "v", type = "integer" }
    columns = { ItemID = "integer", Price = "decimal" }
    references = [{ fields = ["Category"], entity = "category" }]
    [entity.category]
    types = ["CategoryChanges"]
    key = ["ID"]
"#;

#[tokio::test]
async fn a_sink_of_the_first_schema_opens_and_goes_on() {
    let mut world = World::with_tables(World::GOLDEN_1, SHOP).await;
    assert_eq!(world.query("SELECT \"ItemID\", \"Price\" FROM item ORDER BY 1"), ["1|19.90", "2|5.00"]);
    let totals = world.sink.totals().await.unwrap();
    let before = Applied { inserted: 4, deleted: 1, parked: 1, bad: 1, ..Applied::default() };
    assert_eq!((totals.applied, totals.files, totals.parked_now, totals.bad_now), (before, 2, 1, 1));

    // A file that is done stays so, what waits is released, what is deleted stays away.
    let done = world.query("SELECT file FROM _waybill_progress WHERE blob_type = 'ItemChanges'").remove(0);
    let progress = world.sink.progress(&FileKey::from_stored(done)).await.unwrap();
    assert_eq!(progress, Progress { rows: 5, done: true, bad: 1, ..Progress::default() });
    let first = world.file("ItemChanges", r#"{"ItemID":4,"v":1,"Price":1}"#).await;
    assert_eq!(first, Applied { ignored: 1, ..Applied::default() });
    let parent = world.file("CategoryChanges", r#"{"ID":7}"#).await;
    assert_eq!(parent, Applied { inserted: 1, released: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT \"ItemID\" FROM item ORDER BY 1"), ["1", "2", "3"]);

    // Its tables were filled without a filter.
    let filtered = SHOP.replace("types = [\"ItemChanges\"]", "types = [\"ItemChanges\"]\nwhere = 'row.Price > 10.0'");
    assert!(world.refusal(&filtered).await.contains("was filled with no filter"));
    world.reopen(None).await;
}
