(() => {
  const table = byId('table');
  if (!table) return;
  const state = { place: 0, judge: 0, mode: 'score', column: -1, down: false };
  const scored = data.places.map((place, i) => [i, place]).filter(([, place]) => place.judges.length);
  const place = () => data.places[state.place];

  // As many decimals for the whole table as its largest value needs to show four digits.
  function format(values) {
    const largest = values.flat().reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 1e-12);
    const digits = Math.min(Math.max(3 - Math.floor(Math.log10(largest)), 0), 12);
    return (value) => {
      if (value === null) return '–';
      const text = value.toFixed(digits);
      return (Number(text) === 0 ? text.replace('-', '') : text).replace('-', '−');
    };
  }

  function values() {
    const scores = place().scores[place().judges[state.judge].metric];
    if (state.mode === 'score') return scores;
    const base = scores[place().baseline];
    const minus = (value, i) => (value === null || base[i] === null ? null : value - base[i]);
    return scores.map((own) => own.map(minus));
  }

  // Missing values come last in both directions; equal ones keep the order of the names.
  function order(shown) {
    const places = place().images.map((_, i) => i);
    const sign = state.down ? -1 : 1;
    if (state.column < 0) return state.down ? places.reverse() : places;
    const own = shown[state.column];
    return places.sort((a, b) => {
      if (own[a] === null || own[b] === null) return (own[a] === null) - (own[b] === null) || a - b;
      return sign * (own[a] - own[b]) || a - b;
    });
  }

  function header(text, column) {
    const button = element('button', { type: 'button', textContent: text });
    button.dataset.column = column;
    const cell = element('th', { scope: 'col' }, button);
    if (state.column === column) cell.setAttribute('aria-sort', state.down ? 'descending' : 'ascending');
    else cell.setAttribute('aria-sort', 'none');
    return cell;
  }

  function name(image) {
    const crop = viewer ? viewer.find(state.place, image) : -1;
    if (crop < 0) return element('th', { scope: 'row', textContent: image });
    const button = element('button', { type: 'button', textContent: image, title: 'Show in the viewer' });
    button.addEventListener('click', () => viewer.show(crop));
    return element('th', { scope: 'row' }, button);
  }

  function draw() {
    const shown = values();
    const text = format(shown);
    const { higher, metric } = place().judges[state.judge];
    const heads = [header('Image', -1), ...place().methods.map((method, i) => header(method, i))];
    table.tHead.replaceChildren(element('tr', {}, ...heads));
    const tone = (value) => (!value || state.mode === 'score' ? '' : (value > 0) === higher ? 'good' : 'bad');
    table.tBodies[0].replaceChildren(...order(shown).map((i) => element('tr', {}, name(place().images[i]),
      ...shown.map((own) => element('td', { textContent: text(own[i]), className: tone(own[i]) })))));
    const missing = shown.flat().filter((value) => value === null).length;
    byId('table-note').textContent = `${place().images.length} images by ${metric}, ${higher ? 'higher' : 'lower'} is better`
      + `${missing ? `; ${missing} without a finite score` : ''}. Click a column's name to sort.`;
  }

  function openPlace(index) {
    Object.assign(state, { place: index, judge: 0, column: -1, down: false });
    fill(byId('table-judge'), place().judges.map((judge, i) => [i, `${judge.metric} ${judge.higher ? '↑' : '↓'}`]));
    const base = place().baseline;
    const difference = byId('table-mode').options[1];
    difference.disabled = base === null;
    difference.textContent = base === null ? 'difference (no baseline)' : `difference to ${place().methods[base]}`;
    if (base === null) state.mode = byId('table-mode').value = 'score';
    draw();
  }

  table.addEventListener('click', (event) => {
    const button = event.target.closest('thead button');
    if (!button) return;
    const column = Number(button.dataset.column);
    state.down = state.column === column && !state.down;
    state.column = column;
    draw();
    table.tHead.querySelector(`[data-column="${column}"]`).focus();
  });
  byId('table-place').addEventListener('change', (event) => openPlace(Number(event.target.value)));
  byId('table-judge').addEventListener('change', (event) => { state.judge = Number(event.target.value); draw(); });
  byId('table-mode').addEventListener('change', (event) => { state.mode = event.target.value; draw(); });
  fill(byId('table-place'), scored.map(([i, one]) => [i, one.label]));
  openPlace(scored[0][0]);
})();
