//! Microsoft's own SDKs, unmodified, on the other side.

use std::{path::Path, process::Output};

use serde_json::Value;
use tokio::{process::Command, time::timeout};
use waybill_contracts::Entities;
use waybill_formats::Field;
use waybill_subscriber::{Subscriber, inbox::SqliteInbox};

use crate::harness::{PATIENCE, World, assert_nothing_was_dead_lettered, here, python};

async fn run(script: &str, ready: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(python());
    command.arg(here().join("python").join(script)).arg(ready).args(arguments).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it ends in time").expect("Python runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[tokio::test]
async fn our_subscriber_works_what_microsofts_sdks_published() {
    let world = World::new().await;
    let ready = world.ready_file();
    let file = world.path("prices.csv");
    std::fs::write(&file, "ProductID,ListPrice,Note\n1,19.90,\"a, \"\"b\"\"\"\n2,5.00,\n3,,\"\"\n").expect("a file");
    let file = file.to_str().expect("text");
    let output = run("publish.py", &ready, &["PriceChanges", file, "text/csv"]).await;
    let uri = String::from_utf8(output.stdout).expect("text").trim().to_owned();
    let entities = "[entity.price]\ntypes = [\"PriceChanges\"]\nkey = [\"ProductID\"]\n\
                    [entity.price.columns]\nProductID = \"integer\"\nListPrice = \"decimal\"\nNote = \"text\"";
    let entities = Entities::parse(entities, "entities.toml").expect("sound entities");
    let subscribing = world.subscriber(Subscriber::<SqliteInbox>::builder(), &entities).await;
    subscribing.done(1).await;
    let row = subscribing.rows().await.remove(0);
    assert_eq!(row.uri.as_deref(), Some(uri.as_str()));
    assert_eq!((row.blob_type.as_deref(), row.rows, row.bad_rows), (Some("PriceChanges"), 3, 0));
    world.all_settled().await;
    subscribing.end().await;
    assert_eq!(
        world.query("SELECT ProductID, ListPrice, quote(Note) FROM price ORDER BY ProductID"),
        ["1|19.90|'a, \"b\"'", "2|5.00|NULL", "3|-|''"],
        "as written"
    );
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}

#[tokio::test]
async fn microsofts_sdks_receive_and_read_what_our_publisher_sent() {
    const FILES: usize = 3;
    let world = World::new().await;
    let ready = world.ready_file();
    let publishing = world.publisher().await;
    let mut sent = Vec::new();
    for file in 0..FILES {
        let export = publishing.publisher.export("PriceChanges").expect("a good type");
        let export = export.id(&format!("nightly-{file}")).expect("a good id");
        let export = if file == 1 { export.csv(["ProductID", "ListPrice", "Note"]) } else { export };
        let mut writer = export.start().await.expect("the export begins");
        let number = file.to_string();
        let rows = [(number.as_str(), "19.90", Field::Text("ä \"quoted\"".into())), ("7", "0.10", Field::Null)];
        for (id, price, note) in rows {
            let price = if file == 1 { Field::Text(price.into()) } else { Field::Number(price) };
            writer
                .row(&[("ProductID", Field::Number(id)), ("ListPrice", price), ("Note", note)])
                .await
                .expect("the row is written");
        }
        sent.push(writer.finish().await.expect("the export is durable"));
    }
    publishing.end().await;
    let output = run("consume.py", &ready, &[&FILES.to_string()]).await;
    let mut received: Vec<Value> = String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object per message"))
        .collect();
    assert_eq!(received.len(), FILES);
    received.sort_by_key(|message| message["messageId"].to_string());
    for (file, (message, exported)) in received.iter().zip(&sent).enumerate() {
        let content_type = if file == 1 { "text/csv" } else { "application/x-jsonlines" };
        assert_eq!(message["messageId"], exported.export_id);
        assert_eq!(message["subject"], "PriceChanges");
        assert_eq!(message["contentType"], "application/json");
        assert_eq!(message["correlationId"], exported.correlation_id);
        let properties = &message["applicationProperties"];
        assert_eq!(properties["blobType"], "PriceChanges");
        assert_eq!(properties["contentType"], content_type);
        assert_eq!(properties["contentEncoding"], "gzip");
        assert_eq!(properties["correlationId"], exported.correlation_id);
        let body = &message["body"];
        assert_eq!(body["blobType"], "PriceChanges");
        assert_eq!(body["uri"], exported.uri);
        assert_eq!(body["correlationId"], exported.correlation_id);
        assert_eq!((&body["contentType"], &body["contentEncoding"]), (&content_type.into(), &"gzip".into()));
        let extras = &body["properties"]["waybill"];
        assert_eq!((&extras["exportId"], &extras["publisher"]), (&exported.export_id.clone().into(), &"shop".into()));
        assert_eq!((extras["rows"].as_u64(), extras["bytes"].as_u64()), (Some(2), Some(exported.bytes)));
        let plain = if file == 1 {
            "ProductID,ListPrice,Note\n1,19.90,\"ä \"\"quoted\"\"\"\n7,0.10,\n".to_owned()
        } else {
            format!(
                "{{\"ProductID\":{file},\"ListPrice\":19.90,\"Note\":\"ä \\\"quoted\\\"\"}}\n\
                 {{\"ProductID\":7,\"ListPrice\":0.10,\"Note\":null}}\n"
            )
        };
        assert_eq!(message["file"], plain);
        assert_eq!(extras["plainBytes"].as_u64(), Some(plain.len() as u64));
    }
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}
