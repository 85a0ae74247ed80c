"""Other weights in the text of an option file: nothing but these numbers changes, comments and layout stay."""

from nriqa_plugin.checks import atomic_path

NULL = 'tag:yaml.org,2002:null'


class WeightsInFile:
    """Where the weights of the terms of a sum stand in a YAML file; nothing in the file is run.

    Args:
        path (Path): the option file, UTF-8.

    Raises:
        ValueError: not YAML in UTF-8.
    """

    def __init__(self, path):
        import yaml  # comes with BasicSR

        self.path = path
        try:
            self.text = path.read_bytes().decode('utf-8')
            self.root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f'{path}: {error}') from error
        self.uses = {}
        self._count(self.root)

    def _count(self, node):
        """How often every node is used; more than once means aliases."""
        self.uses[id(node)] = self.uses.get(id(node), 0) + 1
        if self.uses[id(node)] == 1 and isinstance(node.value, list):
            for part in node.value:
                for child in part if isinstance(part, tuple) else (part,):
                    self._count(child)

    def spans(self, slot, names):
        """First and last character of the weight of every term.

        Args:
            slot (str): the key in ``train`` that holds the sum.
            names (list[str]): the terms, in the order of the file.

        Returns:
            dict[str, tuple[int, int]]: by name.

        Raises:
            ValueError: a term is given twice, or a weight is not written at one place of its own: it comes by an alias,
                or other parts of the file take it over. (``<<`` is refused by BasicSR's own loader.)
        """
        where, node = 'train', self._step('train', self.root, 'train')
        for key in (slot, 'terms'):
            where = f'{where}.{key}'
            node = self._step(where, node, key)
        if isinstance(node.value, list) and node.value and isinstance(node.value[0], tuple):
            keys = [key.value for key, _ in node.value]
            if twice := next((key for key in keys if keys.count(key) > 1), None):
                raise ValueError(f'{self.path}: {where}.{twice} is given twice')
            steps = [(key.value, f'{where}.{key.value}') for key, value in node.value if value.tag != NULL]
        else:
            steps = [(index, f'{where}[{index}]') for index in range(len(node.value))]
        spans = {}
        for (key, place), name in zip(steps, names, strict=True):
            weight = self._step(f'{place}.weight', self._step(place, node, key), 'weight')
            spans[name] = weight.start_mark.index, weight.end_mark.index
        return spans

    def beside_preset(self, slot, weights):
        """What to write so that a sum that names a preset has other weights: ``terms: {NAME: {weight: ...}}``.

        Args:
            slot (str): the key in ``train`` that holds the sum.
            weights (dict[str, float]): by name of the term.

        Returns:
            list[tuple]: pairs (span, text or number) for :meth:`write`.

        Raises:
            ValueError: as :meth:`spans`; ``terms`` that is there but empty.
        """
        where = f'train.{slot}'
        node = self._step(where, self._step('train', self.root, 'train'), slot)
        if not _has(node, 'terms'):
            text = ', '.join(_term(name, weight) for name, weight in weights.items())
            return [self._first(node, [f'terms: {{{text}}}'])]
        where = f'{where}.terms'
        terms = self._step(where, node, 'terms')
        if not isinstance(terms.value, list):
            raise ValueError(f'{self.path}: {where} is empty, take it out')
        new = [_term(name, weight) for name, weight in weights.items() if not _has(terms, name)]
        changes = [self._first(terms, new)] if new else []
        for name, weight in weights.items():
            if not _has(terms, name):
                continue
            term = self._step(f'{where}.{name}', terms, name)
            if _has(term, 'weight'):
                number = self._step(f'{where}.{name}.weight', term, 'weight')
                changes.append(((number.start_mark.index, number.end_mark.index), weight))
            else:
                changes.append(self._first(term, [f'weight: {yaml_float(weight)}']))
        return changes

    def _first(self, node, entries):
        """(span, text) that puts entries before the others of a mapping."""
        if not node.value:
            at = node.start_mark.index + 1  # {}
            return (at, at), ', '.join(entries)
        mark = node.value[0][0].start_mark
        newline = '\r\n' if '\r\n' in self.text else '\n'
        between = ', ' if node.flow_style else newline + ' ' * mark.column
        return (mark.index, mark.index), ''.join(entry + between for entry in entries)

    def _step(self, where, node, key):
        if isinstance(key, int):
            found = node.value[key]
        else:
            # Of a key that is given twice, YAML's readers take the last.
            found = next(value for own, value in reversed(node.value) if own.value == key)
        if self.uses[id(found)] > 1:
            line = found.start_mark.line + 1
            raise ValueError(f'{self.path}: {where} is shared by an alias with other parts of the file (line {line}): '
                             'write it out, so that it alone can change')  # fmt: skip
        return found

    def write(self, out, numbers, check):
        """Write a copy with other numbers; it appears as a whole or not at all.

        Args:
            out (Path): the new file.
            numbers (list[tuple]): pairs (span, number or text).
            check (Callable[[Path], None]): is called with the written file before it appears under its name.
        """
        text = self.text
        for (start, end), number in sorted(numbers, key=lambda change: change[0], reverse=True):
            text = text[:start] + (number if isinstance(number, str) else yaml_float(number)) + text[end:]
        with atomic_path(out) as temporary:
            temporary.write_bytes(text.encode('utf-8'))
            check(temporary)


def _term(name, weight):
    return f'{name}: {{weight: {yaml_float(weight)}}}'


def _has(node, key):
    return isinstance(node.value, list) and any(own.value == key for own, _ in node.value)


def yaml_float(number):
    """A number as YAML 1.1 reads it back as the same float: ``5.0e-05``, since ``5e-05`` is text there."""
    mantissa, exponent, power = repr(float(number)).partition('e')
    if not exponent:
        return mantissa
    return f'{mantissa if "." in mantissa else mantissa + ".0"}e{power}'
