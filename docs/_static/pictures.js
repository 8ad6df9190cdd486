// Marks pictures that are much wider than high, which site.css does not shrink to a narrow screen.
addEventListener("load", () => {
  for (const image of document.querySelectorAll("article img")) {
    image.classList.toggle("wide", image.naturalWidth > 2.5 * image.naturalHeight);
  }
});
