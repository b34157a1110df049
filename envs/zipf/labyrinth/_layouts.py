"""Maps, made in place by compiled functions: rooms, mazes, fields, platforms and the booth of the psychlab levels.

Maps have their upper left corner at cell (0, 0); what they do not cover is void.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from envs.raycast._jit import inner
from envs.zipf.labyrinth import looks
from envs.zipf.labyrinth._random import below, between, chance, shuffle
from envs.zipf.labyrinth.looks import IS_FLOOR, ROOM_COLOURS
from envs.zipf.labyrinth.state import MAP_EDGE

_RIGHT, _DOWN, _LEFT, _UP = range(4)
PLATFORM_EDGE, PLATFORMS = 3, 5
_SHORTEST_PATH, _LONGEST_PATH, _TRIES = 6, looks.PLATFORM_LEVELS, 50
_DECOY = 16


@inner
def clear(cells, code):
    """Fills a whole map ``[Y, X]``."""
    for y in range(MAP_EDGE):
        for x in range(MAP_EDGE):
            cells[y, x] = code


@inner
def fill(cells, x0, y0, width, height, code):
    """Fills a rectangle of a map."""
    for y in range(y0, y0 + height):
        for x in range(x0, x0 + width):
            cells[y, x] = code


@inner
def room_columns(count):
    """Rooms in a row: up to three rooms stand side by side, more in two rows."""
    return count if count <= 3 else (count + 1) // 2


@inner
def room_corner(room, count, side):
    """Column and row of a room's upper left floor cell; each room has walls of its own."""
    columns = room_columns(count)
    return room % columns * (side + 2) + 1, room // columns * (side + 2) + 1


@inner
def lay_rooms(cells, work, side, count, joined, first_colour):
    """Square rooms, each in a colour of its own, joined by doorways between all neighbours if ``joined``.

    The first room has the ``first_colour``, unless that is negative: give one only to a single room. Afterwards
    ``work.order[:6]`` are the rooms' colours.
    """
    clear(cells, looks.VOID)
    shuffle(work.order, ROOM_COLOURS, work.rng)
    if first_colour >= 0:
        work.order[0] = first_colour
    for room in range(count):
        x, y = room_corner(room, count, side)
        colour = work.order[room]
        fill(cells, x - 1, y - 1, side + 2, side + 2, looks.ROOM_WALL + colour)
        fill(cells, x, y, side, side, looks.ROOM_FLOOR + colour)
    columns = room_columns(count)
    if joined:
        for room in range(count):
            if (room + 1) % columns != 0 and room + 1 < count:
                open_doorway(cells, work, side, count, room, room + 1, -1)
            if room + columns < count:
                open_doorway(cells, work, side, count, room, room + columns, -1)


@inner
def open_doorway(cells, work, side, count, room, other, door):
    """Opens the walls between two neighbours; ``door`` is the code of a door on the side of ``room``, or -1.

    The cells around are taken, so that nothing stands in the way.
    """
    first, second = min(room, other), max(room, other)
    x, y = room_corner(first, count, side)
    beside = second == first + 1 and second // room_columns(count) == first // room_columns(count)
    at = below(work.rng, side)
    here_x, here_y = (x + side, y + at) if beside else (x + at, y + side)
    there_x, there_y = (here_x + 1, here_y) if beside else (here_x, here_y + 1)
    cells[here_y, here_x] = looks.ROOM_FLOOR + work.order[first]
    cells[there_y, there_x] = looks.ROOM_FLOOR + work.order[second]
    if door >= 0:
        if room == first:
            cells[here_y, here_x] = door
        else:
            cells[there_y, there_x] = door
    for i in range(here_y - 1, there_y + 2):
        for j in range(here_x - 1, there_x + 2):
            work.taken[i, j] = True


@inner
def lay_maze(cells, work, edge, rooms, loops):
    """A depth-first maze with square rooms of 3 x 3 cells in a grid, and loops beyond its spanning tree.

    Cells at odd rows and columns are its nodes.
    """
    rng, nodes, theme = work.rng, (edge - 1) // 2, below(work.rng, looks.THEMES)
    wall, floor = looks.THEME_WALL + theme, looks.THEME_FLOOR + theme
    clear(cells, looks.VOID)
    fill(cells, 0, 0, edge, edge, wall)
    _carve_tree(cells, work, nodes, floor)
    slots = 0
    while slots * slots < rooms:
        slots += 1
    if slots > 0:
        width = nodes // slots
        left, top = below(rng, nodes - slots * width + 1), below(rng, nodes - slots * width + 1)
        for room in range(rooms):
            x = 1 + 2 * (left + room % slots * width + below(rng, width - 1))
            y = 1 + 2 * (top + room // slots * width + below(rng, width - 1))
            fill(cells, x, y, 3, 3, looks.ROOM_FLOOR + below(rng, ROOM_COLOURS))
    for y in range(1, edge - 1):
        for x in range(1, edge - 1):
            if (x + y) % 2 == 1 and cells[y, x] == wall and chance(rng, loops):
                cells[y, x] = floor
    for y in range(edge):
        for x in range(edge):
            if cells[y, x] == wall and chance(rng, 0.1):
                cells[y, x] = looks.DECAL + below(rng, ROOM_COLOURS)


@inner
def _carve_tree(cells, work, nodes, floor):
    stack, depth = work.queue, 1
    stack[0] = below(work.rng, nodes * nodes)
    cells[1 + 2 * (stack[0] // nodes), 1 + 2 * (stack[0] % nodes)] = floor
    while depth > 0:
        node = stack[depth - 1]
        x, y = 1 + 2 * (node % nodes), 1 + 2 * (node // nodes)
        found, chosen = 0, -1
        for direction in range(4):
            dx, dy = step_of(direction)
            near_x, near_y = x + 2 * dx, y + 2 * dy
            if 0 < near_x < 2 * nodes and 0 < near_y < 2 * nodes and cells[near_y, near_x] != floor:
                found += 1
                if below(work.rng, found) == 0:
                    chosen = direction
        if chosen < 0:
            depth -= 1
            continue
        dx, dy = step_of(chosen)
        cells[y + dy, x + dx] = floor
        cells[y + 2 * dy, x + 2 * dx] = floor
        stack[depth] = (y // 2 + dy) * nodes + x // 2 + dx
        depth += 1


@inner
def step_of(direction):
    """Column and row step of a direction 0..3: right, down, left, up."""
    if direction == _RIGHT:
        return 1, 0
    if direction == _DOWN:
        return 0, 1
    if direction == _LEFT:
        return -1, 0
    return 0, -1


@inner
def lay_field(cells, work, edge):
    """A meadow inside a hedge with clumps of hedge and low rocks; places that cannot be reached are filled in."""
    clear(cells, looks.VOID)
    fill(cells, 0, 0, edge, edge, looks.HEDGE)
    fill(cells, 1, 1, edge - 2, edge - 2, looks.GRASS)
    for _ in range(edge * edge // 16):
        code = looks.HEDGE if chance(work.rng, 0.55) else looks.ROCK
        x, y = between(work.rng, 1, edge - 2), between(work.rng, 1, edge - 2)
        cells[y, x] = code
        if chance(work.rng, 0.6):
            dx, dy = step_of(below(work.rng, 4))
            cells[y + dy, x + dx] = looks.HEDGE if code == looks.HEDGE else cells[y + dy, x + dx]
    _keep_largest_area(cells, work, edge)


@inner
def _keep_largest_area(cells, work, edge):
    best, best_label, label = 0, -1, 0
    work.distance[:, :] = -1
    for y in range(edge):
        for x in range(edge):
            if IS_FLOOR[cells[y, x]] and work.distance[y, x] < 0:
                size = _flood(cells, work, x, y, label)
                if size > best:
                    best, best_label = size, label
                label += 1
    for y in range(edge):
        for x in range(edge):
            if IS_FLOOR[cells[y, x]] and work.distance[y, x] != best_label:
                cells[y, x] = looks.ROCK


@inner
def _flood(cells, work, x, y, label):
    """Labels the floor connected with a cell in ``work.distance``; returns its size."""
    work.queue[0], head, tail = y * MAP_EDGE + x, 0, 1
    work.distance[y, x] = label
    while head < tail:
        cell = work.queue[head]
        head += 1
        for direction in range(4):
            dx, dy = step_of(direction)
            near_x, near_y = cell % MAP_EDGE + dx, cell // MAP_EDGE + dy
            if IS_FLOOR[cells[near_y, near_x]] and work.distance[near_y, near_x] < 0:
                work.distance[near_y, near_x] = label
                work.queue[tail] = near_y * MAP_EDGE + near_x
                tail += 1
    return tail


@inner
def lay_platforms(cells, work, decoys):
    """Square platforms: a path leads down them, and off it decoys lead down to where there is no way back.

    Returns the first and the last platform of the path, ``row * 5 + column``.
    """
    clear(cells, looks.VOID)
    path, level = work.queue, work.order
    length = 0
    for _ in range(_TRIES):
        length = _walk(path, level, work.rng)
        if length >= _SHORTEST_PATH:
            break
    for k in range(length):
        level[path[k]] = length - 1 - k
    _add_decoys(level, length, work.rng, decoys)
    for platform in range(PLATFORMS * PLATFORMS):
        if level[platform] >= 0:
            x, y = 1 + platform % PLATFORMS * PLATFORM_EDGE, 1 + platform // PLATFORMS * PLATFORM_EDGE
            fill(cells, x, y, PLATFORM_EDGE, PLATFORM_EDGE, looks.PLATFORM + level[platform] % _DECOY)
    return path[0], path[length - 1]


@inner
def _add_decoys(level, length, rng, share):
    """Makes this share of the other platforms decoys, lower than every platform of the path beside them.

    Their levels are marked by ``_DECOY``, so that decoys are not taken for the path.
    """
    for platform in range(PLATFORMS * PLATFORMS):
        if level[platform] >= 0 or not chance(rng, share):
            continue
        x, y = platform % PLATFORMS, platform // PLATFORMS
        lowest = length - 1
        for direction in range(4):
            dx, dy = step_of(direction)
            if 0 <= x + dx < PLATFORMS and 0 <= y + dy < PLATFORMS:
                near = level[(y + dy) * PLATFORMS + x + dx]
                if 0 <= near < _DECOY:
                    lowest = min(lowest, near)
        if lowest > 0:
            level[platform] = _DECOY + below(rng, lowest)


@inner
def _walk(path, level, rng):
    """A random walk that does not cross itself; marks it in ``level`` (elsewhere -1) and returns its length."""
    for platform in range(PLATFORMS * PLATFORMS):
        level[platform] = -1
    path[0], length = below(rng, PLATFORMS * PLATFORMS), 1
    level[path[0]] = 0
    while length < _LONGEST_PATH:
        x, y = path[length - 1] % PLATFORMS, path[length - 1] // PLATFORMS
        found, chosen = 0, -1
        for direction in range(4):
            dx, dy = step_of(direction)
            near = (y + dy) * PLATFORMS + x + dx
            if 0 <= x + dx < PLATFORMS and 0 <= y + dy < PLATFORMS and level[near] < 0:
                found += 1
                if below(rng, found) == 0:
                    chosen = near
        if chosen < 0:
            break
        path[length] = chosen
        level[chosen] = 0
        length += 1
    return length


@inner
def lay_booth(cells, edge):
    """A small room whose north wall is a screen."""
    clear(cells, looks.VOID)
    fill(cells, 0, 0, edge, edge, looks.BOOTH_WALL)
    fill(cells, 0, 0, edge, 1, looks.SCREEN)
    fill(cells, 1, 1, edge - 2, edge - 2, looks.BOOTH_FLOOR)
