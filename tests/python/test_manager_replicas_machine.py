"""Replicas and shards through whatever a loop may do, seen in real bytes."""

from hypothesis import settings

from replicas_machine import ReplicasMachine

ReplicasMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40
)
TestReplicasMachine = ReplicasMachine.TestCase
