//! The message of the public description, and that it survives us.

use crate::{Encoding, Format, Metadata};

const PUBLIC_EXAMPLE: &[u8] = include_bytes!("../../golden/metadata/accepted/public-example.json");

#[test]
fn the_example_of_the_public_description_is_read_in_every_field() {
    let metadata = Metadata::parse(PUBLIC_EXAMPLE).unwrap();
    assert_eq!(metadata.blob_type, "Gateway.ItemChanges");
    assert_eq!(metadata.correlation_id, "7e06807f-674f-4199-9140-a97b897dbaee");
    assert_eq!(metadata.media().unwrap().format, Format::JsonLines);
    assert_eq!(metadata.encoding().unwrap(), Some(Encoding::Gzip));
    assert_eq!(metadata.properties.as_ref().unwrap().get(), "{}");
    assert!(metadata.unknown.is_empty());
    let endpoint = "https://myaccount.blob.core.windows.net".parse().unwrap();
    let name = metadata.blob_uri().unwrap().under(&endpoint, "batchtoprocess").unwrap();
    assert_eq!(
        name.as_str(),
        "Gateway.ItemChanges/2022-07-05/7e06807f-674f-4199-9140-a97b897dbaee-ce820821-8215-427a-96eb-7f476bcfc8a4.jsonl.gz"
    );
    assert_eq!(metadata.blob_uri().unwrap().normalised(), metadata.uri);
}

#[test]
fn the_example_of_the_public_description_is_written_as_it_was_read() {
    let written = String::from_utf8(Metadata::parse(PUBLIC_EXAMPLE).unwrap().to_json().unwrap()).unwrap();
    let example = std::str::from_utf8(PUBLIC_EXAMPLE).unwrap();
    assert_eq!(written, example.replace('\n', "").replace("\": ", "\":"));
}
