"""Wake-ups of readers in other processes: with a single server, and when none arrives."""

from __future__ import annotations

import pytest
import redis

from app.dev.demo.model import ScriptedModelServer
from app.dev.demo.script import ScriptedTurn
from app.redis import feeds, keys
from app.redis.wake_ups import WakeUps
from app.redis.wire.connection import Connection
from app.redis.wire.pubsub import PubSub
from tests.harness.frames import check
from tests.harness.service import headers, running
from tests.harness.tools import calling, risky
from tests.harness.waiting import eventually
from tests.harness.settings import MakeSettings
