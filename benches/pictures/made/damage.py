"""What happens to files on their way: an end that is missing, other bytes, a piece lost, moved or repeated."""


def damage(generator, data):
    data = bytearray(data)
    place = lambda: int(generator.integers(len(data)))
    match generator.integers(6):
        case 0:
            del data[place() :]
        case 1:
            # Near the end, where it is most often.
            del data[-int(generator.integers(1, 20)) :]
        case 2:
            for _ in range(generator.integers(1, 4)):
                data[place()] = generator.integers(256)
        case 3:
            data[place()] ^= 1 << int(generator.integers(8))
        case 4:
            first = place()
            length = min(int(generator.integers(1, 64)), len(data) - first)
            data[first : first + length] = bytes(length)
        case 5:
            first = place()
            length = int(generator.integers(1, 16))
            if generator.integers(2):
                del data[first : first + length]
            else:
                data[first:first] = data[first : first + length]
    return bytes(data) or b"\0"
