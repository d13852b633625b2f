//! The binaries waybill-publisher, waybill-subscriber and waybill-local.
