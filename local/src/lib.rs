//! Service Bus, Blob Storage and TenantService in one process, with scripted faults.

pub mod keys;
