'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);

function element(tag, options = {}, ...children) {
  const made = Object.assign(document.createElement(tag), options);
  made.append(...children);
  return made;
}

function fill(select, entries) {
  select.replaceChildren(...entries.map(([value, text]) => element('option', { value, textContent: text })));
}

// One zoom and one place for every picture of the section: they cannot get out of step.
const viewer = (() => {
  const root = byId('viewer');
  if (!root) return null;
  const LARGEST = 16;
  const stage = byId('stage');
  const state = { region: 0, left: '', right: '', zoom: 1, x: 0, y: 0, split: 50 };
  const region = () => data.regions[state.region];

  function picture(name) {
    const uri = region().tiles[region().names.indexOf(name)];
    if (uri) return element('img', { src: uri, alt: `${name}: ${region().image}`, draggable: false });
    return element('span', { className: 'absent', textContent: `no picture of ${name}` });
  }

  function sharpen() {
    for (const image of root.querySelectorAll('.window img')) {
      const shown = image.parentElement.clientWidth * state.zoom * window.devicePixelRatio;
      image.classList.toggle('enlarged', image.naturalWidth > 0 && shown >= image.naturalWidth);
    }
  }

  function move() {
    const room = 1 - 1 / state.zoom;
    state.x = Math.min(Math.max(state.x, 0), room);
    state.y = Math.min(Math.max(state.y, 0), room);
    for (const key of ['zoom', 'x', 'y']) root.style.setProperty(`--${key}`, state[key]);
    root.style.setProperty('--split', `${state.split}%`);
    root.classList.toggle('zoomed', state.zoom > 1);
    byId('split').value = state.split;
    byId('zoom').textContent = `${Number(state.zoom.toFixed(1))}×`;
    const { box } = region();
    const seen = [box[0] + state.x * box[2], box[1] + state.y * box[3], box[2] / state.zoom, box[3] / state.zoom];
    ['left', 'top', 'width', 'height'].forEach((side, i) => { byId('box').style[side] = `${seen[i]}%`; });
    sharpen();
  }

  // Zooms so that the point at (px, py), fractions of a window, stays where it is.
  function zoomTo(zoom, px = 0.5, py = 0.5) {
    const next = Math.min(Math.max(zoom, 1), LARGEST);
    state.x += px / state.zoom - px / next;
    state.y += py / state.zoom - py / next;
    state.zoom = next;
    move();
  }

  function choose() {
    for (const side of ['left', 'right']) {
      byId(`layer-${side}`).replaceChildren(picture(state[side]));
      byId(`tag-${side}`).textContent = state[side];
      byId(side).value = state[side];
    }
    for (const tile of byId('tiles').children) {
      const sides = ['left', 'right'].filter((side) => state[side] === tile.dataset.name);
      if (sides.length) tile.dataset.side = sides.join(', ');
      else delete tile.dataset.side;
      tile.lastChild.replaceChildren(...(sides.length ? [element('b', { textContent: `${sides.join(', ')} ` })] : []),
        tile.dataset.name);
    }
    for (const image of root.querySelectorAll('.layer img')) image.decode().then(sharpen, () => {});
    move();
  }

  function open(index) {
    state.region = index;
    Object.assign(state, { zoom: 1, x: 0, y: 0 });
    const { names, image, size, left, top, thumbnail, place } = region();
    for (const side of ['left', 'right']) fill(byId(side), names.map((name) => [name, name]));
    const { methods, baseline } = data.places[place];
    const shown = names.filter((name) => methods.includes(name));
    const first = baseline !== null && shown.includes(methods[baseline]) ? methods[baseline] : shown[0];
    if (!names.includes(state.left)) state.left = first;
    if (!names.includes(state.right)) state.right = shown.find((name) => name !== first) || names[0];
    byId('tiles').replaceChildren(...names.map((name) => {
      const tile = element('button', { type: 'button', className: 'tile' },
        element('div', { className: 'window' }, picture(name)), element('span', { textContent: name }));
      tile.dataset.name = name;
      return tile;
    }));
    for (const picked of byId('tiles').querySelectorAll('img')) picked.decode().then(sharpen, () => {});
    Object.assign(byId('thumbnail'), { src: thumbnail, alt: `${image} with the crop marked` });
    byId('where').textContent = `${image}: ${size} px from (${left}, ${top})`;
    byId('region').value = index;
    choose();
  }

  const pointers = new Map();
  let moved = 0;
  let dragging = '';

  function at(event, target) {
    const box = target.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  function splitTo(event) {
    state.split = Math.min(Math.max(at(event, stage)[0] * 100, 0), 100);
    move();
  }

  root.addEventListener('pointerdown', (event) => {
    const target = event.target.closest('.window');
    if (!target || event.button) return;
    if (pointers.size === 0) moved = 0;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    const onLine = event.target === byId('handle') || (target === stage && state.zoom === 1);
    dragging = pointers.size > 1 ? 'pinch' : onLine ? 'split' : 'pan';
    if (dragging === 'split') {
      event.target.setPointerCapture(event.pointerId);
      splitTo(event);
    }
  });
  window.addEventListener('pointermove', (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
    const side = (event.target.closest?.('.window') || stage).clientWidth;
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    moved += Math.abs(dx) + Math.abs(dy);
    if (dragging === 'split') splitTo(event);
    else if (dragging === 'pinch' && others.length) {
      const spread = (place) => Math.hypot(place[0] - others[0][0], place[1] - others[0][1]);
      zoomTo(state.zoom * spread([event.clientX, event.clientY]) / Math.max(spread(before), 1));
    } else if (dragging === 'pan') {
      state.x -= dx / side / state.zoom;
      state.y -= dy / side / state.zoom;
      move();
    }
  });
  for (const name of ['pointerup', 'pointercancel']) {
    window.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      if (!pointers.size) dragging = '';
    });
  }
  root.addEventListener('wheel', (event) => {
    const target = event.target.closest('.window');
    if (!target || !(event.ctrlKey || event.metaKey)) return; // a plain wheel scrolls the page
    event.preventDefault();
    zoomTo(state.zoom * Math.exp(-event.deltaY / 200), ...at(event, target));
  }, { passive: false });
  stage.addEventListener('dblclick', (event) => zoomTo(state.zoom * 2, ...at(event, stage)));
  stage.addEventListener('keydown', (event) => {
    const step = 0.1 / state.zoom;
    const steps = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const zooms = { '+': state.zoom * 1.5, '=': state.zoom * 1.5, '-': state.zoom / 1.5, 0: 1 };
    if (steps[event.key] && state.zoom > 1) {
      state.x += steps[event.key][0];
      state.y += steps[event.key][1];
      move();
    } else if (zooms[event.key] && !event.ctrlKey && !event.metaKey) zoomTo(zooms[event.key]);
    else return;
    event.preventDefault();
  });
  byId('tiles').addEventListener('click', (event) => {
    const tile = event.target.closest('.tile');
    if (!tile || moved > 5) { moved = 0; return; } // that was a drag
    state.right = tile.dataset.name;
    choose();
  });
  byId('split').addEventListener('input', (event) => { state.split = Number(event.target.value); move(); });
  byId('region').addEventListener('change', (event) => open(Number(event.target.value)));
  for (const side of ['left', 'right']) {
    byId(side).addEventListener('change', (event) => { state[side] = event.target.value; choose(); });
  }
  byId('swap').addEventListener('click', () => { [state.left, state.right] = [state.right, state.left]; choose(); });
  byId('zoom-in').addEventListener('click', () => zoomTo(state.zoom * 1.5));
  byId('zoom-out').addEventListener('click', () => zoomTo(state.zoom / 1.5));
  byId('zoom-reset').addEventListener('click', () => zoomTo(1));
  window.addEventListener('resize', sharpen);

  const several = data.places.length > 1;
  fill(byId('region'), data.regions.map((one, i) => {
    const number = data.regions.slice(0, i + 1).filter((o) => o.image === one.image && o.place === one.place).length;
    const text = `${one.image}${number > 1 ? ` (${number})` : ''}`;
    return [i, several ? `${data.places[one.place].label}: ${text}` : text];
  }));
  open(0);
  return {
    // The crop of an image, or -1.
    find: (place, image) => data.regions.findIndex((one) => one.place === place && one.image === image),
    show: (index) => { open(index); root.scrollIntoView(); byId('region').focus({ preventScroll: true }); },
  };
})();
