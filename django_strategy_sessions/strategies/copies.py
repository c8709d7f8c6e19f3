"""Copies of a store's rows in Redis: how they look, and the scripts around them.

`cached` has the argument why no copy is out of date.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from .. import records
from ..hidden import Hidden
from .sealed import Row

LEASE = 1.0  # seconds
TOKEN = 16  # characters, of tokens and epochs
_FILLING = 10_000  # milliseconds
_MARKED = 60_000  # milliseconds, longer than any statement may take
_LONGEST = timedelta(days=1)  # of a copy

FILL, PASS, NO_LEASE, SETTLED = range(4)

# KEYS: the lease and the entry. ARGV begins with the token of the question, and each reply with it,
# so a reply to another question shows.
#
# `lease` is the epoch, or false; `process` the server's.
_FIND_LEASE = f"""
local info = redis.call('INFO', 'server')
local process = assert(string.match(info, 'run_id:(%w+)'), 'no run_id')
local lease = redis.pcall('GET', KEYS[1])
lease = type(lease) == 'string' and string.sub(lease, {TOKEN + 1}) == process
    and string.sub(lease, 1, {TOKEN})
local none
if not lease then
    local now = redis.call('TIME')
    none = {{ARGV[1], {NO_LEASE}, process, now[1] * 1000 + math.floor(now[2] / 1000)}}
end
"""
_HELD_BY = "local held = redis.pcall('GET', KEYS[2]) held = type(held) == 'string' and held or ''"
_COUNT_WRITERS = "local writers = tonumber(string.match(held, '^w(%d+) ')) or 0"
# What a question leaves is its own: the token and the microsecond. If the question arrives once
# more, late, it leaves something else.
_STAMP = """
local now = redis.call('TIME')
local stamp = ARGV[1] .. string.format('%d%06d', now[1], now[2])
"""
# For a reader that found no copy.
LEAVE = f"""
{_FIND_LEASE}
if none then return none end
{_HELD_BY}
local kind = string.sub(held, 1, 1)
if kind == 'w' then return {{ARGV[1], {PASS}}} end
if kind ~= '' and string.sub(held, 2, {TOKEN + 1}) == lease then
    local by = string.sub(held, {TOKEN + 2}, {2 * TOKEN + 1})
    if kind == 'r' or by ~= ARGV[1] then return {{ARGV[1], {PASS}}} end
end
{_STAMP}
if redis.pcall('SET', KEYS[2], 'f' .. lease .. stamp, 'PX', {_FILLING}).err then
    return {{ARGV[1], {PASS}}}
end
return {{ARGV[1], {FILL}, lease .. stamp}}
"""
# ARGV: what the reader left, the copy, its remaining milliseconds.
PUT = f"""
{_HELD_BY}
if held == 'f' .. ARGV[2] then
    local lease = string.sub(ARGV[2], 1, {TOKEN})
    redis.pcall('SET', KEYS[2], 'r' .. lease .. ARGV[3], 'PX', ARGV[4])
end
return {{ARGV[1]}}
"""
# A server that is full still deletes.
MARK = f"""
local lease = redis.pcall('GET', KEYS[1])
lease = type(lease) == 'string' and string.sub(lease, 1, {TOKEN}) or ''
{_HELD_BY}
{_COUNT_WRITERS}
if not string.find(held, ARGV[1], 1, true) then writers = writers + 1 end
{_STAMP}
local mark = lease .. stamp
if redis.pcall('SET', KEYS[2], 'w' .. writers .. ' ' .. mark, 'PX', {_MARKED}).err then
    redis.call('DEL', KEYS[2])
end
return {{ARGV[1], mark}}
"""
# ARGV: the writer's mark, and the copy and its remaining milliseconds, or nothing.
SETTLE = f"""
{_FIND_LEASE}
{_HELD_BY}
{_COUNT_WRITERS}
local set = {{err = true}}
if writers > 1 then
    set = redis.pcall('SET', KEYS[2], 'w' .. writers - 1 .. ' ', 'KEEPTTL')
elseif ARGV[3] and lease == string.sub(ARGV[2], 1, {TOKEN}) and held == 'w1 ' .. ARGV[2] then
    set = redis.pcall('SET', KEYS[2], 'r' .. lease .. ARGV[3], 'PX', ARGV[4])
end
if set.err then redis.call('DEL', KEYS[2]) end
return none or {{ARGV[1], {SETTLED}}}
"""
# ARGV: the epoch, the server's process, the end of the lease in milliseconds since 1970.
GRANT = f"""
local now = redis.call('TIME')
local left = ARGV[4] - now[1] * 1000 - math.floor(now[2] / 1000)
if left < 1 or left > {round(LEASE * 1000)} then return {{ARGV[1], 0}} end
if redis.pcall('SET', KEYS[1], ARGV[2] .. ARGV[3], 'PX', left).err then return {{ARGV[1], 0}} end
return {{ARGV[1], 1}}
"""


def is_worth_a_copy(row: Row) -> bool:
    """Whether this is a session, and not a marker, that has not expired."""
    is_session = len(row.record) > records.MAC_LENGTH and not records.is_moved(row.record)
    return is_session and row.expires > datetime.now(UTC)


def encode(row: Row) -> tuple[str, int]:
    """Return the copy of a row, without its owners, which are in its texts; and how long to keep
    it, in milliseconds."""
    lasts = min(row.expires - datetime.now(UTC), _LONGEST)
    copy = f"{row.expires.isoformat()}\n{row.created.isoformat()}\n{row.record}"
    return copy, max(1, lasts // timedelta(milliseconds=1))


def find_copy(lease: object, entry: object, process: str | None) -> Row | None:
    """Return the row of an entry that is a copy, and counts because this process of the server has
    a lease."""
    if not (isinstance(lease, str) and isinstance(entry, str) and lease[TOKEN:] == process):
        return None
    if entry[: TOKEN + 1] != "r" + lease[:TOKEN]:
        return None
    try:
        expires, created, record = entry[TOKEN + 1 :].split("\n", 2)
        return Row(Hidden(record), datetime.fromisoformat(expires), datetime.fromisoformat(created))
    except ValueError:
        return None
