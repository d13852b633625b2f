//! The errors that a script can give, each as its service says it.
//!
//! # Sources
//! "Service Bus messaging exceptions" and the conditions that Microsoft's clients know; AMQP 1.0 part 2, section 2.8.15 to
//! 2.8.18; "Blob Storage error codes".

use std::fmt;

/// An error instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too busy: `com.microsoft:server-busy` on the bus, 503 `ServerBusy` of storage, 429 of TenantService and the
    /// token authority.
    Busy,
    /// Of storage.
    Blob(StorageCode),
    /// Of TenantService or the token authority: an HTTP status from 400 to 599.
    Status(u16),
    /// Of the bus.
    Condition(Condition),
}

/// A code of storage, with its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageCode {
    /// As in `x-ms-error-code`.
    pub(crate) code: &'static str,
    pub(crate) status: u16,
    pub(crate) message: &'static str,
}

/// A condition of AMQP or of Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition(&'static str);

const STORAGE: [StorageCode; 12] = [
    storage("InternalError", 500, "The server encountered an internal error. Please retry the request."),
    storage("OperationTimedOut", 500, "The operation could not be completed within the permitted time."),
    storage("ServerBusy", 503, "The server is currently unable to receive requests. Please retry your request."),
    storage("BlobNotFound", 404, "The specified blob does not exist."),
    storage("ContainerNotFound", 404, "The specified container does not exist."),
    storage("BlobArchived", 409, "This operation is not permitted on an archived blob."),
    storage("ContainerBeingDeleted", 409, "The specified container is being deleted. Try operation later."),
    storage("ConditionNotMet", 412, "The condition specified using HTTP conditional header(s) is not met."),
    storage("AuthenticationFailed", 403, "Server failed to authenticate the request."),
    storage("AuthorizationFailure", 403, "This request is not authorized to perform this operation."),
    storage(
        "AuthorizationPermissionMismatch",
        403,
        "This request is not authorized to perform this operation using this permission.",
    ),
    storage("AccountIsDisabled", 403, "The specified account is disabled."),
];

const fn storage(code: &'static str, status: u16, message: &'static str) -> StorageCode {
    StorageCode { code, status, message }
}

const CONDITIONS: [&str; 29] = [
    "com.microsoft:server-busy",
    "com.microsoft:timeout",
    "com.microsoft:entity-disabled",
    "com.microsoft:message-lock-lost",
    "com.microsoft:message-not-found",
    "com.microsoft:auth-failed",
    "com.microsoft:argument-error",
    "com.microsoft:argument-out-of-range",
    "com.microsoft:operation-cancelled",
    "amqp:internal-error",
    "amqp:not-found",
    "amqp:unauthorized-access",
    "amqp:decode-error",
    "amqp:resource-limit-exceeded",
    "amqp:not-allowed",
    "amqp:invalid-field",
    "amqp:not-implemented",
    "amqp:resource-locked",
    "amqp:precondition-failed",
    "amqp:resource-deleted",
    "amqp:illegal-state",
    "amqp:connection:forced",
    "amqp:connection:framing-error",
    "amqp:session:window-violation",
    "amqp:session:errant-link",
    "amqp:link:detach-forced",
    "amqp:link:transfer-limit-exceeded",
    "amqp:link:message-size-exceeded",
    "amqp:link:stolen",
];

impl Condition {
    /// "Too busy".
    pub const SERVER_BUSY: Self = Self("com.microsoft:server-busy");
    /// What an idle link is told.
    pub const DETACH_FORCED: Self = Self("amqp:link:detach-forced");
    /// What a connection is told by a server that goes down.
    pub const CONNECTION_FORCED: Self = Self("amqp:connection:forced");
    /// The entity is full.
    pub const RESOURCE_LIMIT_EXCEEDED: Self = Self("amqp:resource-limit-exceeded");
    /// A defect of the server.
    pub const INTERNAL_ERROR: Self = Self("amqp:internal-error");

    /// As it goes over the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0
    }

    /// What a client is told with it.
    pub(crate) fn text(self) -> &'static str {
        match self.0 {
            "com.microsoft:server-busy" => {
                "The request was terminated because the namespace is being throttled. Error code: 50009. Please wait 2 \
                 seconds and try again. (fault script)"
            }
            "com.microsoft:entity-disabled" => "Messaging entity is currently disabled. (fault script)",
            "amqp:resource-limit-exceeded" => "The maximum entity size has been reached or exceeded. (fault script)",
            "amqp:link:detach-forced" => {
                "The link is force detached by the broker due to errors. Detach origin: Publisher. (fault script)"
            }
            _ => "A fault script says so.",
        }
    }

    /// The status that a request to `$cbs` or `$management` is answered with.
    pub(crate) fn status(self) -> i32 {
        match self.0 {
            "com.microsoft:server-busy" => 503,
            "com.microsoft:timeout" => 408,
            "com.microsoft:message-lock-lost" => 410,
            "com.microsoft:auth-failed" | "amqp:unauthorized-access" => 401,
            "amqp:not-found" | "com.microsoft:message-not-found" => 404,
            "amqp:resource-limit-exceeded" => 403,
            "amqp:not-allowed" | "amqp:invalid-field" | "com.microsoft:entity-disabled" => 400,
            "amqp:not-implemented" => 501,
            _ => 500,
        }
    }
}

impl std::str::FromStr for Condition {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = CONDITIONS.iter().find(|known| **known == name);
        known.map(|known| Self(known)).ok_or_else(|| {
            format!("{name:?} is no condition that Service Bus has; there are {}", CONDITIONS.join(", "))
        })
    }
}

impl StorageCode {
    /// As clients read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.code
    }
}

impl std::str::FromStr for StorageCode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        STORAGE.iter().find(|known| known.code == name).copied().ok_or_else(|| {
            let known: Vec<&str> = STORAGE.iter().map(|known| known.code).collect();
            format!("{name:?} is no code that a script can give; there are {}", known.join(", "))
        })
    }
}

impl Refusal {
    /// On the bus.
    pub(crate) fn condition(self) -> Condition {
        match self {
            Self::Busy => Condition::SERVER_BUSY,
            Self::Condition(condition) => condition,
            Self::Blob(_) | Self::Status(_) => Condition::INTERNAL_ERROR,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("too busy"),
            Self::Blob(code) => f.write_str(code.code),
            Self::Status(status) => write!(f, "{status}"),
            Self::Condition(condition) => f.write_str(condition.0),
        }
    }
}
