// Of several profiles, budgets or runs one is shown at a time.

function choosable(variants) {
  const all = [...variants.children];
  if (all.length < 2) return;
  const select = document.createElement("select");
  const label = document.createElement("label");
  label.textContent = `${variants.dataset.label} `;
  label.append(select);
  all.forEach((variant, at) => select.add(new Option(variant.dataset.name, at)));
  const bar = document.createElement("div");
  bar.className = "tools choose";
  bar.append(label);
  variants.prepend(bar);
  const show = () => all.forEach((variant, at) => variant.classList.toggle("out", at !== Number(select.value)));
  select.addEventListener("change", show);
  // A link to something in a variant shows it.
  const follow = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const at = target ? all.findIndex((variant) => variant.contains(target)) : -1;
    if (at < 0) return;
    select.value = at;
    show();
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", follow);
  show();
  follow();
}

document.querySelectorAll(".variants").forEach(choosable);

// Commands are copied by a button.
for (const command of document.querySelectorAll("pre.command")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  const said = document.createElement("output");
  const line = command.textContent;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(line);
      said.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(command);
      said.textContent = "selected: press Ctrl+C";
    }
  });
  const tools = document.createElement("div");
  tools.className = "tools copy";
  tools.append(button, said);
  command.after(tools);
}
